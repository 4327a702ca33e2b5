"""`cora export`, `cora detect` and `cora evaluate` with what it wrote."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cora.apps.cli import main
from tests.export.conftest import picture, toy_config, toy_detector

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small model and two images."""
    monkeypatch.chdir(tmp_path)
    config = toy_config()
    config = replace(config, postprocess=replace(config.postprocess, nms_iou=0.5))  # as evaluations want it
    toy_detector(tmp_path / "cache", config).save("toy.safetensors")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        picture(120, 160, seed=number).save(f"photos/{number}.png")
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("cora: error: ")
    assert message.count("\n") == 1
    return message


def test_export_detect_and_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ["export", "--format", "onnx", "--model", "toy.safetensors", "--output", "out/toy.onnx"]
    fixed = ["--classes", "cat, dog", "--distractors", "none", "--size", "160x224", "--batch", "1", "--nms", "inside"]
    assert main([*made, *fixed, "--check-on", "photos"]) == 0
    printed = capsys.readouterr().out
    assert "out/toy.onnx: " in printed
    assert "0 off" in printed
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["toy.onnx"]

    # The names are those of the file; no model of PyTorch is needed any more.
    (folder / "toy.safetensors").unlink()
    found = [
        "detect",
        "photos",
        "--model",
        "out/toy.onnx",
        "--score",
        "0.001",
        "--output",
        "drawn",
        "--json",
        "boxes.json",
    ]
    assert main(found) == 0
    boxes = json.loads(Path("boxes.json").read_text())
    assert [category["name"] for category in boxes["categories"]] == ["cat", "dog"]
    assert boxes["annotations"]
    assert len(list(Path("drawn").iterdir())) == 2
    capsys.readouterr()

    assert main([*found, "--classes", "bus"]) == 2
    assert "some of the 2 that were exported with the model, got 'bus'" in capsys.readouterr().err

    truth = {
        "images": [{"id": 1, "file_name": "0.png", "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40], "area": 2000, "iscrowd": 0}
        ],
    }
    Path("truth.json").write_text(json.dumps(truth))
    measured = ["evaluate", "--images", "photos", "--annotations", "truth.json", "--model", "out/toy.onnx"]
    assert main([*measured, "--resamples", "2", "--json", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    assert report["detections"] > 0
    assert report["model"]["name"] == "out/toy.onnx"
    assert main([*measured, "--oracles"]) == 2
    assert "expected --oracles with a model by name or a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--output", "toy.xml"], "a name that ends in .onnx for onnx"),
        (["--format", "openvino", "--output", "toy"], "a name that ends in .xml for openvino"),
        (["--format", "onnx", "--output", "folder.onnx"], "got a folder"),
        (["--format", "onnx", "--output", "a.onnx", "--model", "nothing.safetensors"], "expected an existing file"),
        (["--format", "onnx", "--output", "a.onnx", "--model", "other.onnx"], "cora export: expected a model by name"),
        (["--format", "onnx", "--output", "a.onnx", "--distractors", "tree"], "--distractors: expected --classes"),
        (["--format", "onnx", "--output", "a.onnx", "--templates", "plain"], "--templates: expected --classes"),
        (["--format", "onnx", "--output", "a.onnx", "--classes", "cat, cat"], "every name once"),
        (["--format", "onnx", "--output", "a.onnx", "--dynamic", "--size", "64x64"], "--dynamic or --size, got both"),
        (["--format", "onnx", "--output", "a.onnx", "--dynamic", "--batch", "2"], "--dynamic or --batch, got both"),
        (["--format", "litert", "--output", "a.tflite", "--dynamic"], "--dynamic: expected another format"),
        (["--format", "litert", "--output", "a.tflite"], "a.tflite: expected class names to fix in the file"),
        (["--format", "onnx", "--output", "a.onnx", "--check-on", "nothing.png"], "got no file at nothing.png"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "folder.onnx").mkdir()
    before = sorted(folder.rglob("*"))
    assert message in error_of(capsys, *arguments)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("size", ["64", "64x", "x64", "16x64", "64x9000", "axb"])
def test_sizes_are_checked_where_they_are_read(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", "--format", "onnx", "--output", "a.onnx", "--size", size])
    assert stop.value.code == 2
    assert "height and width in 32..8192" in capsys.readouterr().err


def test_tensorrt_without_its_package(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    message = error_of(capsys, "--format", "tensorrt", "--output", "toy.engine", "--model", "toy.safetensors")
    assert "pip install 'cora-ovd[tensorrt]'" in message
