"""`cora groups`, with a tiny random model: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import cora
from cora.apps.cli import main
from cora.detector import Detector
from cora.draw import colours_together
from tests import toys
from tests.evaluation.coco_data import CLASSES, ground_truth, write_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    config = toys.toy_config(tower={"width": 4, "context_length": 16, "vocab_size": 1000}, localizer={"num_queries": 9})
    return toys.toy_detector(config, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch, model: Detector) -> None:
    monkeypatch.setattr(cora, "load", lambda name: cora.Predictor(model))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    images, annotations = write_folder(tmp_path, ground_truth(images=4, seed=1))
    return ["--images", str(images), "--annotations", str(annotations)]


def run(*options: str) -> int:
    return main(["groups", "--device", "cpu", *options])


def written(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_names_alone_are_grouped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "groups.json"
    assert run("--classes", "cat, dog, bus, car", "--groups", "2", "--json", str(report)) == 0
    printed = capsys.readouterr().out
    assert "2 groups of 4 classes" in printed
    assert all(name in printed for name in ("cat", "dog", "bus", "car"))
    content = written(report)
    assert list(content["groups"]) == ["cat", "dog", "bus", "car"]
    assert set(content["groups"].values()) == {0, 1}
    cosines = [pair["cosine"] for pair in content["alike"]]
    assert len(cosines) == 6
    assert cosines == sorted(cosines, reverse=True)
    assert "confusion" not in content


def test_photos_add_what_is_confused_and_a_second_matrix(
    tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names, both, report = tmp_path / "names.png", tmp_path / "both.png", tmp_path / "groups.json"
    assert run("--classes", ", ".join(CLASSES), "--groups", "2", "--picture", str(names)) == 0
    assert run(*photos, "--groups", "2", "--picture", str(both), "--json", str(report)) == 0
    assert "boxes named wrong" in capsys.readouterr().out
    content = written(report)
    matrix = torch.tensor(content["confusion"]["boxes"])
    assert sorted(content["confusion"]["classes"]) == sorted(CLASSES)
    assert content["boxes"] == int(matrix.sum())
    assert content["boxes"] == sum(not a["iscrowd"] for a in ground_truth(images=4, seed=1)["annotations"])
    assert content["wrong"] == int(matrix.sum() - matrix.trace())
    assert 0 <= content["wrong_within_group"] <= content["wrong"]
    assert sum(pair["boxes"] for pair in content["confused"]) == content["wrong"]
    with Image.open(names) as first, Image.open(both) as second:
        assert second.width > first.width


@pytest.fixture
def coloured(tmp_path: Path) -> list[str]:
    """Images with one square each: cats are red, dogs green, buses blue."""
    truth = ground_truth(images=9, boxes=0)
    (tmp_path / "coloured").mkdir()
    for number, image in enumerate(truth["images"]):
        photo = Image.new("RGB", (image["width"], image["height"]))
        photo.paste([(255, 0, 0), (0, 255, 0), (0, 0, 255)][number % 3], (40, 40, 160, 160))
        photo.save(tmp_path / "coloured" / image["file_name"])
        box = {"image_id": image["id"], "bbox": [40, 40, 120, 120], "area": 14400, "iscrowd": 0}
        truth["annotations"].append({"id": number + 1, "category_id": number % 3 + 1, **box})
    annotations = tmp_path / "coloured.json"
    annotations.write_text(json.dumps(truth), encoding="utf-8")
    return ["--images", str(tmp_path / "coloured"), "--annotations", str(annotations)]


def test_regions_that_look_alike_make_groups_that_are_their_classes(
    tmp_path: Path, coloured: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toys.toy_config(tower={"context_length": 16, "vocab_size": 1000})
    seeing = toys.toy_detector(config, tmp_path / "cache", residual=1.0)
    monkeypatch.setattr(cora, "load", lambda name: cora.Predictor(seeing))
    report, picture = tmp_path / "groups.json", tmp_path / "groups.png"
    options = ["--groups", "3", "--subgroups", "1", "--json", str(report), "--picture", str(picture)]
    assert run(*coloured, *options) == 0
    printed = capsys.readouterr().out
    for title in ("3 groups of 9 regions", "beside the annotated classes", "regions of each class",
                  "separation of regions", "a group of classes first"):  # fmt: skip
        assert title in printed
    assert "cat 100.0 %" in printed
    regions = written(report)["regions"]
    assert regions["boxes"] == 9
    assert sorted(list(group["classes"].items()) for group in regions["groups"]) == [
        [("bus", 3)], [("cat", 3)], [("dog", 3)],
    ]  # fmt: skip
    assert regions["agreement"]["groups"]["prompt"]["adjusted_rand"] == 1
    assert regions["silhouette"]["classes"]["after"]["value"] > 0.9
    by_names, *_, by_examples = regions["coarse_to_fine"]
    # As many groups as classes: choosing the group is choosing the class.
    assert by_names["flat"] == by_names["coarse_to_fine"] == by_names["group_right"]
    assert by_examples["by"] == "examples"
    assert by_examples["flat"]["value"] == 1
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or []}
    assert set(colours_together([["bus", "cat", "dog"]]).values()) <= colours


def test_names_are_grouped_on_two_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "groups.json"
    names = "cat, dog, bus, car, tree"
    assert run("--classes", names, "--groups", "2", "--subgroups", "2", "--json", str(report)) == 0
    assert "subgroup" in capsys.readouterr().out
    content = written(report)
    assert list(content["subgroups"]) == names.split(", ")
    for name, group in content["groups"].items():
        assert content["parents"][content["subgroups"][name]] == group
    assert "regions" not in content


def test_fewer_boxes_than_groups_are_said_and_names_are_still_grouped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = ground_truth(images=1, boxes=0)
    box = {"id": 1, "image_id": 10, "category_id": 1, "bbox": [40, 40, 120, 120], "area": 14400, "iscrowd": 0}
    images, annotations = write_folder(tmp_path, truth | {"annotations": [box]})
    report, picture = tmp_path / "groups.json", tmp_path / "groups.png"
    options = ["--groups", "2", "--json", str(report), "--picture", str(picture)]
    assert run("--images", str(images), "--annotations", str(annotations), *options) == 0
    assert "regions are not grouped: expected at least 2 boxes for 2 groups, got 1" in capsys.readouterr().out
    assert "regions" not in written(report)
    assert picture.exists()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        run("--classes", "cat, dog, bus, car, tree", "--groups", "3", "--seed", "4", "--json", str(path))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--groups", "2"], "expected --classes, or --images with --annotations"),
        (["--classes", "cat", "--groups", "2"], "expected 1 to 1 groups of 1 classes, got 2"),
        (["--classes", "a, b", "--groups", "1", "--limit", "3"], "expected --images with"),
        (["--classes", "a, b", "--groups", "1", "--picture", "x.jpg"], "ends in .png"),
    ],
)
def test_bad_input_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("numbers", [["--groups", "0"], ["--groups", "1", "--subgroups", "0"]])
def test_no_groups_at_all_are_refused(numbers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--classes", "a, b", *numbers)
    assert "whole number of 1 or more" in capsys.readouterr().err
