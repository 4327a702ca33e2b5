"""Messages name options that the command has, and say what was found without being named."""

import json
from pathlib import Path

import pytest

from cora.apps import open_model
from cora.apps.cli import main
from cora.errors import TEXT_MODEL, ModelError

BAD = {
    "images": [{"id": 1, "file_name": "white.jpg", "width": 80, "height": 60}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0},
    ],
}
PHOTOS = ("--images", "photos", "--annotations", "boxes.json")


@pytest.mark.parametrize(
    ("command", "has_option"),
    [
        (["evaluate", *PHOTOS], False),
        (["region-accuracy", *PHOTOS], False),
        (["groups", *PHOTOS, "--groups", "2"], False),
        (["quantize", *PHOTOS, "--backend", "onnxruntime", "--mode", "dynamic", "--output", "a.onnx"], False),
        (["calibrate", *PHOTOS, "--output", "a.safetensors"], False),
        (["text-prompts", *PHOTOS, "--method", "offsets", "--output", "a.safetensors"], False),
        (["shards", *PHOTOS, "--output", "shards"], True),
        (["relabel", *PHOTOS, "--output", "new.json"], True),
    ],
)
def test_no_message_names_an_option_that_the_command_lacks(
    folder: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], command: list[str], has_option: bool
) -> None:
    Path("boxes.json").write_text(json.dumps(BAD))
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "image" in err
    assert err.count("\n") == 1
    assert ("--skip-bad" in err) == has_option, err


@pytest.mark.parametrize(
    ("command", "has_option"), [(["detect", "photos", "--classes", "cat"], True), (["evaluate", *PHOTOS], False)]
)
def test_advice_of_a_lower_layer_names_an_option_where_there_is_one(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    has_option: bool,
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise ModelError(f"a.onnx: expected its text tower, got another; export it again{TEXT_MODEL}")

    monkeypatch.setattr(open_model, "open_detector", fails)
    Path("boxes.json").write_text(json.dumps({**BAD, "annotations": BAD["annotations"][:1]}))
    assert main([*command, "--model", "a.onnx"]) == 2
    err = capsys.readouterr().err
    assert "got another; export it again" in err
    assert ("--text-model" in err) == has_option, err


@pytest.mark.parametrize(("ending", "named"), [(".pt2", "torch.export"), (".engine", "TensorRT")])
@pytest.mark.parametrize(
    "command",
    [
        ["detect", "photos", "--classes", "cat"],
        ["evaluate", "--images", "photos", "--annotations", "good.json"],
        ["calibrate", "--images", "photos", "--annotations", "good.json", "--output", "a.safetensors"],
    ],
)
def test_files_of_other_runtimes_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], ending: str, named: str, command: list[str]
) -> None:
    Path("good.json").write_text(json.dumps({**BAD, "annotations": BAD["annotations"][:1]}))
    Path(f"nano{ending}").write_bytes(b"PK\x03\x04")
    assert main([*command, "--model", f"nano{ending}"]) == 2
    err = capsys.readouterr().err
    assert f"nano{ending}: expected a file of weights, got a" in err
    assert named in err
    assert "name the file that it was exported from" in err
    assert err.count("\n") == 1


def test_annotations_that_were_found_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = json.dumps({**BAD, "annotations": BAD["annotations"][:1]})
    Path("photos/boxes.json").write_text(good)
    Path("photos/black.png").unlink()
    assert main(["shards", "--images", "photos", "--output", "found"]) == 0
    assert "no annotations are named; those found are photos/boxes.json" in caplog.text
    caplog.clear()
    assert main(["shards", "--images", "photos", "--annotations", "photos/boxes.json", "--output", "named"]) == 0
    assert "those found are" not in caplog.text
