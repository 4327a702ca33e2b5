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


def test_no_groups_at_all_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--classes", "a, b", "--groups", "0")
    assert "whole number of 1 or more" in capsys.readouterr().err
