"""`--class-agnostic` in every command that makes boxes with names: one object has one name, whatever runs the model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert, box_iou

import cora
from cora.apps.cli import main
from tests.export.conftest import picture, toy_config, toy_detector

NAMES = ["cat", "dog", "house"]
OPTIONS = ("--model", "toy.safetensors", "--device", "cpu")
CLASSES = ("--classes", ", ".join(NAMES))
IOU = toy_config().postprocess.nms_iou


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds every name in about the same places, in the current folder with three images."""
    monkeypatch.chdir(tmp_path)
    detector = toy_detector(tmp_path / "cache", toy_config())
    with torch.no_grad():
        detector.localizer.objectness_head.bias.fill_(2.0)
    detector.save("toy.safetensors")
    Path("photos").mkdir()
    for number in range(3):
        picture(160, 224, number).save(f"photos/{number}.png")


def overlap(boxes_xywh: Sequence[Sequence[float]]) -> float:
    """The largest IoU of two boxes."""
    boxes = box_convert(torch.tensor(boxes_xywh, dtype=torch.float64), "xywh", "xyxy")
    return float(box_iou(boxes, boxes).fill_diagonal_(0).max())


def annotated(path: str) -> list[list[list[float]]]:
    """Boxes of every image of a COCO file."""
    content = json.loads(Path(path).read_text())
    of_image: dict[int, list[list[float]]] = {}
    for one in content["annotations"]:
        of_image.setdefault(one["image_id"], []).append(one["bbox"])
    return list(of_image.values())


def tracked(path: str) -> list[list[list[float]]]:
    """Boxes of every frame of a JSON file of tracks."""
    frames = json.loads(Path(path).read_text())["frames"]
    return [[found["bbox"] for found in frame["objects"]] for frame in frames if frame["objects"]]


def check(plain: list[list[list[float]]], apart: list[list[list[float]]]) -> None:
    """Between classes boxes overlap without the option, and not with it."""
    assert plain
    assert len(apart) == len(plain)
    assert max(map(overlap, plain)) > IOU + 0.1
    assert max(map(overlap, apart)) <= IOU + 0.02  # boxes are written to a hundredth of a pixel


def test_detect_and_batch() -> None:
    batch = ["batch", "photos", *CLASSES, *OPTIONS, "--score", "0.1"]
    assert main(["detect", "photos", *CLASSES, *OPTIONS, "--score", "0.1", "--class-agnostic", "--json", "a.json"]) == 0
    assert main([*batch, "--to", "plain"]) == 0
    assert main([*batch, "--to", "apart", "--class-agnostic"]) == 0
    check(annotated("plain/annotations.json"), annotated("apart/annotations.json"))
    for found, expected in zip(annotated("apart/annotations.json"), annotated("a.json"), strict=True):
        assert found == [pytest.approx(box, abs=0.02) for box in expected]


def test_batch_is_bound_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    batch = ["batch", "photos", *CLASSES, *OPTIONS, "--score", "0.1", "--to", "out"]
    assert main(batch) == 0
    capsys.readouterr()
    assert main([*batch, "--class-agnostic"]) == 2
    assert "got another suppression" in capsys.readouterr().err
    assert main([*batch, "--class-agnostic", "--margin", "0.1"]) == 2
    assert "--margin: expected several classes of one object" in capsys.readouterr().err


@pytest.mark.integration
def test_processes_of_a_batch() -> None:
    batch = ["batch", "photos", *CLASSES, *OPTIONS, "--score", "0.1", "--class-agnostic"]
    assert main([*batch, "--to", "one"]) == 0
    assert main([*batch, "--to", "two", "--processes", "2"]) == 0
    one, two = annotated("one/annotations.json"), annotated("two/annotations.json")
    assert [len(boxes) for boxes in one] == [len(boxes) for boxes in two]
    assert max(map(overlap, two)) <= IOU + 0.02


def make_view() -> None:
    still = Image.open("photos/0.png")
    still.save("view.gif", save_all=True, append_images=[picture(160, 224, 1), still, still, still], duration=100)


def test_video() -> None:
    make_view()
    video = ["video", "view.gif", *CLASSES, *OPTIONS, "--score", "0.1", "--no-video", "--smooth", "0"]
    assert main([*video, "--json", "plain.json"]) == 0
    assert main([*video, "--json", "apart.json", "--class-agnostic"]) == 0
    for name in ("plain.json", "apart.json"):  # the same boxes of several classes are one object with or without it
        assert max(map(overlap, tracked(name))) <= IOU
    assert json.loads(Path("apart.json").read_text())["class_agnostic"] is True
    assert json.loads(Path("plain.json").read_text())["class_agnostic"] is False


def evaluate(*more: str) -> dict[str, Any]:
    annotations = ["--images", "photos", "--annotations", "boxes.json", "--resamples", "2", *OPTIONS]
    assert main(["evaluate", *annotations, "--score", "0.1", "--json", "report.json", *more]) == 0
    report: dict[str, Any] = json.loads(Path("report.json").read_text())
    return report


def write_boxes() -> None:
    """What the model finds, one name an object, as ground truth."""
    assert main(["detect", "photos", *CLASSES, *OPTIONS, "--score", "0.1", "--class-agnostic", "--json", "b.json"]) == 0
    content = json.loads(Path("b.json").read_text())
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    Path("boxes.json").write_text(json.dumps(content))


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    write_boxes()
    plain, apart = evaluate(), evaluate("--class-agnostic")
    assert (plain["class_agnostic"], apart["class_agnostic"]) == (False, True)
    expected = cora.load("toy.safetensors").predict(
        [f"photos/{number}.png" for number in range(3)],
        NAMES,
        score=0.1,
        nms_iou=0.5,
        class_agnostic=True,
        distractors=(),
        precision="float32",
    )
    assert apart["detections"] == sum(map(len, expected)) < plain["detections"]
    capsys.readouterr()
    command = ["evaluate", "--images", "photos", "--annotations", "boxes.json", "--class-agnostic"]
    assert main([*command, "--oracles", *OPTIONS]) == 2
    assert "expected --oracles without --class-agnostic" in capsys.readouterr().err
    Path("results.json").write_text("[]")
    assert main([*command, "--predictions", "results.json"]) == 2
    assert "got --class-agnostic, which need a model" in capsys.readouterr().err


@pytest.mark.integration
def test_processes_of_an_evaluation() -> None:
    write_boxes()
    assert evaluate("--class-agnostic")["detections"] == evaluate("--class-agnostic", "--processes", "2")["detections"]


def test_pseudo_label() -> None:
    label = ["pseudo-label", "photos", *CLASSES, *OPTIONS, "--score", "0.1"]
    assert main([*label, "--output", "plain.json"]) == 0
    assert main([*label, "--output", "apart.json", "--class-agnostic"]) == 0
    check(annotated("plain.json"), annotated("apart.json"))
    assert json.loads(Path("apart.json").read_text())["info"]["class_agnostic"] is True


def test_calibrate(capsys: pytest.CaptureFixture[str]) -> None:
    write_boxes()
    calibrate = ["calibrate", "--images", "photos", "--annotations", "boxes.json", *OPTIONS]
    assert main([*calibrate, "--output", "plain.safetensors", "--json", "plain.json"]) == 0
    capsys.readouterr()
    assert main([*calibrate, "--output", "own.safetensors", "--json", "apart.json", "--class-agnostic"]) == 0
    assert "--model own.safetensors --class-agnostic" in " ".join(capsys.readouterr().out.split())
    plain, apart = (json.loads(Path(name).read_text()) for name in ("plain.json", "apart.json"))
    assert (plain["class_agnostic"], apart["class_agnostic"]) == (False, True)
    # Boxes of other classes are gone already, so a lower threshold does.
    assert apart["measured"]["none"]["threshold"] < plain["measured"]["none"]["threshold"]


@pytest.mark.integration
@pytest.mark.parametrize("nms", ["inside", "outside"])
def test_exported_files(nms: str) -> None:
    pytest.importorskip("onnx")
    export = ["export", "--format", "onnx", "--output", "toy.onnx", "--size", "160x224", "--batch", "1", "--nms", nms]
    assert main([*export, "--model", "toy.safetensors"]) == 0
    make_view()
    asked = [*CLASSES, "--model", "toy.onnx", "--device", "cpu", "--score", "0.1"]
    for name, more in (("plain", []), ("apart", ["--class-agnostic"])):
        assert main(["detect", "photos", *asked, *more, "--json", f"{name}.json"]) == 0
        assert main(["batch", "photos", *asked, *more, "--to", name]) == 0
    check(annotated("plain.json"), annotated("apart.json"))
    check(annotated("plain/annotations.json"), annotated("apart/annotations.json"))
    assert main(["video", "view.gif", *asked, "--class-agnostic", "--no-video", "--json", "video.json"]) == 0
    assert max(map(overlap, tracked("video.json"))) <= IOU + 0.02
