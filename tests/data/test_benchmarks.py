"""The image sets of OV-COCO and OV-LVIS, on small annotation files with the official class lists."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.apps.cli import main
from cora.data.benchmarks import image_set, images_tested, split_annotations
from cora.data.class_split import ClassSplit, known_split
from cora.data.read import read_dataset
from cora.errors import DataError
from cora.evaluation.held_out import HeldOut, groups_of
from cora.evaluation.truth import read_truth
from cora.structures import Detections
from tests.detector.conftest import tiny_detector

COCO, LVIS = known_split("coco"), known_split("lvis")
NEITHER = "wine glass"


def annotations(boxes: dict[int, list[str]], names: tuple[str, ...], *, lvis: bool = False) -> dict[str, Any]:
    """Images of these ids with one box of each name; a name with a star is a crowd."""
    ids = {name: number for number, name in enumerate(names, start=3)}
    images: list[dict[str, Any]] = [
        {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30, "licence": 4} for number in boxes
    ]
    categories: list[dict[str, Any]] = [{"id": number, "name": name} for name, number in ids.items()]
    if lvis:
        for image in images:
            image |= {"neg_category_ids": [ids[LVIS.novel[0]], ids[LVIS.base[1]]], "not_exhaustive_category_ids": []}
        for entry in categories:
            entry["frequency"] = "r" if entry["name"] in LVIS.novel else "f"
    found = [(image, name) for image, several in boxes.items() for name in several]
    return {
        "info": {"year": 2017},
        "images": images,
        "categories": categories,
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": ids[name.rstrip("*")],
                "bbox": [2, 3, 10, 12],
                "area": 120,
                "iscrowd": int(name.endswith("*")),
                "segmentation": [[2, 3, 12, 3, 12, 15]],
            }
            for number, (image, name) in enumerate(found, start=1)
        ],
    }


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder: base, novel, a crowd of a base class, one of the other 15 classes, nothing."""
    boxes = {1: [COCO.base[0], COCO.novel[0]], 2: [COCO.novel[1]], 3: [COCO.base[2] + "*"], 4: [NEITHER], 5: []}
    return written(tmp_path, annotations(boxes, (*COCO.all, NEITHER)))


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    boxes = {1: [LVIS.base[0], LVIS.novel[0]], 2: [LVIS.novel[1]], 3: []}
    return written(tmp_path, annotations(boxes, LVIS.all, lvis=True))


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "all.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (40, 30)).save(folder / image["file_name"])
    return folder


@pytest.mark.parametrize(("training", "expected"), [(True, [1, 3]), (False, [1, 2, 3])])
def test_images_of_ov_coco(coco: Path, training: bool, expected: list[int]) -> None:
    names = COCO.base if training else COCO.all
    dataset = read_dataset(images=coco, annotations=coco / "all.json", class_names=names)
    kept, counts = image_set(dataset, COCO, training=training)
    assert [record.image_id for record in kept.records] == expected
    assert len(dataset.records) == 5
    assert counts is not None
    assert f"{len(expected)} of 5 images" in str(counts)
    assert f"{len(names)} " in str(counts)
    truth = read_truth(coco / "all.json", class_names=COCO.all)
    assert sorted(images_tested(truth, COCO)[0]) == [1, 2, 3]


@pytest.mark.parametrize("split", [None, ClassSplit(base=COCO.base, novel=COCO.novel)])
def test_other_splits_leave_every_image_in(coco: Path, split: ClassSplit | None) -> None:
    dataset = read_dataset(images=coco, annotations=coco / "all.json", class_names=COCO.base)
    assert image_set(dataset, split, training=True) == (dataset, None)
    truth = read_truth(coco / "all.json", class_names=COCO.all)
    assert images_tested(truth, split) == (frozenset({1, 2, 3, 4, 5}), None)


@pytest.mark.slow
def test_lvis_is_tested_on_every_image(lvis: Path) -> None:
    for training, expected in ((True, [1]), (False, [1, 2, 3])):
        names = LVIS.base if training else LVIS.all
        dataset = read_dataset(images=lvis, annotations=lvis / "all.json", class_names=names)
        kept, counts = image_set(dataset, LVIS, training=training)
        assert [record.image_id for record in kept.records] == expected
        assert "OV-LVIS" in str(counts)
    assert images_tested(read_truth(lvis / "all.json", class_names=LVIS.all), LVIS)[0] == {1, 2, 3}


def test_lvis_needs_no_frequencies(lvis: Path) -> None:
    content = json.loads((lvis / "all.json").read_text())
    for entry in content["categories"]:
        del entry["frequency"]
    (lvis / "all.json").write_text(json.dumps(content))
    dataset = read_dataset(images=lvis, annotations=lvis / "all.json", class_names=LVIS.all)
    kept, _ = image_set(dataset, LVIS, training=False)
    tested, _ = images_tested(read_truth(lvis / "all.json", class_names=LVIS.all), LVIS)
    assert {record.image_id for record in kept.records} == tested == {1, 2, 3}


@pytest.mark.parametrize(
    ("part", "images", "boxes", "classes"),
    [("base", [1, 3], 2, 48), ("basetarget", [1, 2, 3], 4, 65), ("all", [1, 2, 3], 4, 65), ("target", [1, 2], 2, 17)],
)
def test_split_writes_the_files_of_the_benchmark(
    coco: Path, part: str, images: list[int], boxes: int, classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = coco / "part.json"
    command = ["split", str(coco / "all.json"), "--split", "coco", "--part", part, "--output", str(output)]
    for _ in range(2):  # the same command again replaces its own file
        assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{len(images)} of 5 images, {boxes} of 5 boxes, {classes} of 66 classes" in out
    before, after = (json.loads((coco / name).read_text()) for name in ("all.json", "part.json"))
    assert [image["id"] for image in after["images"]] == images
    assert len(after["categories"]) == classes
    assert all(entry in before["annotations"] for entry in after["annotations"])
    assert all(entry in before["categories"] for entry in after["categories"])
    assert after["info"]["year"] == 2017
    assert after["images"][0]["licence"] == 4


@pytest.mark.slow
def test_split_of_lvis_keeps_its_lists_readable(lvis: Path) -> None:
    output = lvis / "norare.json"
    command = ["split", str(lvis / "all.json"), "--split", "lvis", "--part", "base", "--output", str(output)]
    assert main(command) == 0
    content = json.loads(output.read_text())
    assert [image["id"] for image in content["images"]] == [1]
    assert len(content["images"][0]["neg_category_ids"]) == 1
    assert read_dataset(images=lvis, annotations=output).class_names == LVIS.base
    everything = json.loads((lvis / "all.json").read_text())
    everything["images"][0]["neg_category_ids"] = None
    whole = split_annotations(everything, LVIS, "all", source=lvis)
    assert len(whole["images"]) == 3


def test_bad_input_is_one_line(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (coco / "list.json").write_text("[1]")
    (coco / "few.json").write_text(json.dumps(annotations({1: [COCO.base[0]]}, COCO.base[:1])))
    (coco / "empty.json").write_text(json.dumps(annotations({1: []}, COCO.all)))
    odd = json.loads((coco / "few.json").read_text())
    (coco / "ids.json").write_text(json.dumps(odd | {"images": [{"id": [1]}]}))
    (coco / "lists.json").write_text(json.dumps(odd | {"images": [{"id": 1, "neg_category_ids": 3}]}))
    for name, message in (
        ("none.json", "none.json"),
        ("list.json", "expected a COCO or LVIS object, got a list"),
        ("few.json", "expected 48 classes, got 47 missing"),
        ("empty.json", "expected boxes of 48 classes, got none"),
        ("ids.json", "expected a number as id of images, got a list at place 1"),
        ("lists.json", "expected a list of category ids as neg_category_ids, got a number at place 1"),
    ):
        command = ["split", str(coco / name), "--split", "coco", "--part", "base", "--output", str(coco / "out.json")]
        assert main(command) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (coco / "out.json").exists()
    assert (
        main(
            ["split", str(coco / "all.json"), "--split", "coco", "--part", "base", "--output", str(coco / "list.json")]
        )
        == 2
    )
    assert "got a JSON file of other content" in capsys.readouterr().err


def test_a_set_without_any_image_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, annotations({1: [COCO.novel[0]]}, COCO.all))
    dataset = read_dataset(images=folder, annotations=folder / "all.json", class_names=COCO.all)
    kept, _ = image_set(dataset, COCO, training=False)
    assert len(kept) == 1
    dataset.records = []
    with pytest.raises(DataError, match="expected images with a box of the split coco, got none"):
        image_set(dataset, COCO, training=True)


def test_evaluate_and_region_accuracy_count_the_images_of_the_benchmark(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = coco / "model.safetensors"
    tiny_detector(coco / "cache").save(model)
    where = ["--images", str(coco), "--annotations", str(coco / "all.json"), "--split", "coco"]
    report = coco / "report.json"
    for command in ("evaluate", "region-accuracy"):
        options = ["--model", str(model), "--resamples", "5", "--device", "cpu", "--json", str(report)]
        assert main([command, *where, *options]) == 0
        assert "3 of 5 images to test on" in " ".join(capsys.readouterr().out.split())
        assert json.loads(report.read_text())["images"] == 3
        report.unlink()


@pytest.mark.slow
def test_lvis_numbers_while_training(lvis: Path, tmp_path: Path) -> None:
    dataset = read_dataset(images=lvis, annotations=lvis / "all.json", class_names=LVIS.all)
    held_out = HeldOut(dataset=dataset, groups=groups_of(LVIS.base, LVIS.novel), resamples=5)
    asked: list[int] = []

    class Perfect:
        """Finds every box of an image and nothing else."""

        def vocabulary(self, classes: Mapping[str, Any], **_: object) -> tuple[str, ...]:
            return tuple(classes)

        def predict(self, images: list[Any], classes: list[str], *, max_detections: int, **_: object) -> list[Any]:
            asked.append(max_detections)
            found = []
            for _image in images:
                record = dataset.records[len(asked) - 1]
                found.append(
                    Detections(
                        boxes_xyxy_px=record.boxes_xyxy_px,
                        scores=torch.ones(len(record.classes)),
                        labels=record.classes,
                        class_names=tuple(classes),
                        image_size=record.size,
                    )
                )
            return found

    numbers = held_out.ap50(Perfect())  # type: ignore[arg-type]
    assert {"apr", "apf", "ap"} <= numbers.keys()
    assert numbers["apr"] == pytest.approx(1.0)
    assert set(asked) == {300}
