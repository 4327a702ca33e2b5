"""`cora quantize` from the command line, with a whole detector of toy size: what is written, refused and forced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cora.apps.cli import main
from cora.apps.open_model import open_detector
from cora.compress.quantize import files_of
from cora.compress.quantize_torch import Int8Detector, quantize_detector
from cora.predictor import Predictor
from tests.detector.conftest import tiny_detector
from tests.evaluation.coco_data import truth_near, write_noise

pytestmark = pytest.mark.integration

NAMES = "cat, dog, bus"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images of noise, and boxes of which the model finds some."""
    folder = tmp_path_factory.mktemp("data")
    detector = tiny_detector(folder / "cache")
    detector.save(folder / "tiny.safetensors")
    images, annotations = write_noise(folder, images=4)
    results = []
    for number in range(1, 5):
        found = Predictor(detector).predict(
            Image.open(images / f"{number}.png"), NAMES.split(", "), score=0.0, distractors=()
        )
        results += found.to_coco(number)[:3]
    truth_near(results, annotations)
    return folder


def run(data: Path, output: Path, *options: str | Path) -> int:
    arguments = ["quantize", "--model", data / "tiny.safetensors", "--images", data / "images", "--output", output]
    return main([str(argument) for argument in (*arguments, *options)])


TORCHAO = ("--backend", "torchao", "--mode", "dynamic")


def test_without_annotations_agreement_is_measured(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "new" / "int8.safetensors", tmp_path / "report.json"
    assert run(data, output, *TORCHAO, "--classes", NAMES, "--json", report, "--min-agreement", "1") == 0
    printed = capsys.readouterr().out
    assert "AP was not checked" in printed
    assert "AP50" not in printed.split("agreement: ")[0]
    content = json.loads(report.read_text())
    assert content["ap_checked"] is False
    assert [row["name"] for row in content["rows"]] == ["float, PyTorch", "INT8 dynamic, torchao"]
    assert content["rows"][0]["agreement"] == pytest.approx(100)
    assert content["rows"][1]["megabytes"] < content["rows"][0]["megabytes"]
    assert [path.name for path in output.parent.iterdir()] == ["int8.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "report.json"]


def test_the_file_is_a_model_of_the_other_commands(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "int8.safetensors"
    assert run(data, output, *TORCHAO, "--classes", NAMES, "--min-agreement", "1") == 0
    detector = open_detector(str(output), "cpu")
    assert isinstance(detector.detector, Int8Detector)
    found = detector.predict(data / "images" / "1.png", NAMES.split(", "), score=0.0)
    boxes = tmp_path / "boxes.json"
    options = ["--classes", NAMES, "--model", output, "--score", "0", "--output", tmp_path / "drawn", "--json", boxes]
    assert main(["detect", *map(str, [data / "images" / "1.png", *options])]) == 0
    written = json.loads(boxes.read_text())["annotations"]
    assert len(written) == len(found) > 0
    assert torch.tensor([entry["score"] for entry in written]) == pytest.approx(found.scores, abs=1e-4)


def test_annotations_add_average_precision(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"base": ["cat", "dog"], "novel": ["bus"]}))
    report = tmp_path / "report.json"
    options = ["--annotations", data / "annotations.json", "--split", split, "--json", report]
    output = tmp_path / "int8.safetensors"
    assert run(data, output, *TORCHAO, *options, "--max-loss", "100", "--min-agreement", "1") == 0
    printed = capsys.readouterr().out
    assert "AP was not checked" not in printed
    assert "in brackets: 95 % intervals by resampling images" in printed
    rows = json.loads(report.read_text())["rows"]
    assert all(set(row["ap50"]) == {"novel", "base", "all"} for row in rows)
    assert rows[0]["ap50"]["all"]["value"] > 0
    assert rows[0]["change"]["all"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stored.safetensors", TORCHAO),
        ("float.onnx", ("--backend", "onnxruntime", "--mode", "dynamic")),
    ],
)
def test_any_name_of_the_output_is_as_good(data: Path, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """Also one that the float models of the comparison might have."""
    report = tmp_path / "report.json"
    limits = ["--min-agreement", "1", "--limit", "1", "--json", report]
    assert run(data, tmp_path / name, *options, "--classes", NAMES, *limits) == 0
    *floats, int8 = json.loads(report.read_text())["rows"]
    assert int8["megabytes"] == pytest.approx((tmp_path / name).stat().st_size / 1e6)
    assert all(int8["megabytes"] != row["megabytes"] for row in floats)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "report.json"])


def test_weights_and_description_belong_to_an_openvino_file_in_any_case() -> None:
    assert [path.name for path in files_of(Path("a.XML"))] == ["a.XML", "a.bin", "a.json"]


def test_static_calibrates_on_pictures(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.safetensors"
    options = ["--backend", "torchao", "--mode", "static", "--calibration", data / "images", "--calibration-limit", "2"]
    assert run(data, output, *options, "--classes", NAMES, "--min-agreement", "1") == 0
    assert open_detector(str(output), "cpu").mode == "static"  # type: ignore[attr-defined]


def test_too_large_a_loss_is_refused_unless_forced(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cora.compress.quantize_torch.Int8Detector.save", _save_broken)
    output, report = tmp_path / "int8.safetensors", tmp_path / "report.json"
    options = [*TORCHAO, "--annotations", data / "annotations.json", "--json", report]
    assert run(data, output, *options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("cora: error: refused: AP50 of all classes falls from")
    assert errors.count("\n") == 1
    assert "--force" in errors
    assert list(tmp_path.iterdir()) == []
    assert run(data, output, *options, "--force") == 0
    printed = capsys.readouterr().out
    assert "forced: AP50 of all classes falls" in printed
    assert output.is_file()
    assert json.loads(report.read_text())["forced"]


_save = Int8Detector.save


def _save_broken(detector: Int8Detector, path: Path) -> None:
    """As if scales had gone wrong: every box ends up in one corner."""
    with torch.no_grad():
        for head in detector.localizer.decoder.box_heads:
            head.layers[-1].bias.fill_(-8)  # type: ignore[union-attr, index, operator]
    _save(detector, path)


def test_an_int8_model_is_no_input(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = open_detector(str(data / "tiny.safetensors"), "cpu")
    model, output = tmp_path / "int8.safetensors", tmp_path / "again.safetensors"
    quantize_detector(detector, mode="dynamic").save(model)
    assert run(data, output, *TORCHAO, "--model", model) == 2
    assert "cora quantize: expected a model of floats, got the INT8 copy" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "onnxruntime", "--mode", "dynamic"], "expected an output that ends in .onnx for onnxruntime"),
        (["--backend", "torchao", "--mode", "static"], "expected --calibration DIR with --mode static, got none"),
        ([*TORCHAO, "--calibration", "{data}/images"], "expected --calibration with --mode static"),
        ([*TORCHAO, "--split", "coco"], "expected --annotations with --split, got none"),
        ([*TORCHAO, "--annotations", "{data}/annotations.json", "--classes", "cat"], "got both"),
        ([*TORCHAO, "--images", "{data}/nowhere"], "expected an image file, got no file"),
        ([*TORCHAO, "--model", "x.onnx"], "cora quantize: expected a model by name or a checkpoint, got the exported"),
        (
            ["--backend", "torchao", "--mode", "static", "--calibration", "{data}/cache"],
            "expected a folder with images",
        ),
    ],
)
def test_bad_input_is_refused(
    data: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "int8.safetensors", *(option.format(data=data) for option in options)) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(data, tmp_path / "int8.safetensors", *TORCHAO, "--max-loss", "much")
    assert "expected a number above 0, got 'much'" in capsys.readouterr().err
