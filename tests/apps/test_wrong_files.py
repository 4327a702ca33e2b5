"""Wrong kinds of files, where a command expects others, are called what they are; the message is one line."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from cora.apps.cli import main
from tests.apps.command_lines import COMMANDS

GOOD = {
    "images": [{"id": 1, "file_name": "white.jpg", "width": 80, "height": 60}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "no model")
    return file.getvalue()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG")
    return file.getvalue()


#: Name of a file -> its content.
FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "picture": picture,
    "zip": zipped,
    "half.json": lambda: json.dumps(GOOD).encode()[:70],
    "deep.json": lambda: b"[" * 100_000,
    "text": lambda: b"hello",
    "long.csv": lambda: b"name,size\n" + b"a" * 200_000 + b",1\n",
    "long_key.json": lambda: b'{"' + b"1" * 5000 + b'": 1, "0": "cat"}',
    "page": lambda: b"<!doctype html><html>404</html>",
    "other.json": lambda: b'{"a": 1}',
    "note.xml": lambda: b'<?xml version="1.0"?><note/>',
    "other.safetensors": lambda: save({"a": torch.zeros(3)}),
    "half.safetensors": lambda: save({"a": torch.zeros(300)})[:200],
    "tensors.pth": lambda: saved({"a": torch.zeros(2)}),
    "half.pth": lambda: saved({"a": torch.zeros(2000)})[:3000],
    "image.json": picture,
    "image.onnx": picture,
    "text.onnx": lambda: b"hello",
    "zip.tflite": zipped,
}
#: What no message shows to users: names of Python and of its packages, and their words.
INTERNAL = (
    *("Errno", "codec", "Expecting", "deserializing", "NoneType", "Detector.save", "miniz", "Traceback", "ModelProto"),
    *("got Is a", "JSONDecodeError", "set_int"),
)
PHOTOS = ("--images", "photos", "--annotations", "good.json")
MODEL = ("detect", "photos/white.jpg", "--classes", "cat", "--model")
CLASSES = ("detect", "photos/white.jpg", "--model", "nano", "--classes")


@pytest.fixture
def files(folder: Path) -> Path:
    """The current folder, with two images in `photos` and a file of each kind."""
    for name, content in FILES.items():
        Path(name).write_bytes(content())
    Path("good.json").write_text(json.dumps(GOOD))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # Models.
        ([*MODEL, "picture"], "picture: expected a model file of cora, got a PNG image; name a model file"),
        ([*MODEL, "other.json"], "expected a model file of cora, got a JSON file; name"),
        ([*MODEL, "text"], "expected a model file of cora, got a file of another kind; name"),
        ([*MODEL, "zip"], "got a PyTorch file or another archive; published checkpoints and CLIP's weights"),
        ([*MODEL, "empty"], "got an empty file; get it again"),
        ([*MODEL, "other.safetensors"], "expected a model file of cora, got a safetensors file of another program; "),
        ([*MODEL, "half.safetensors"], "expected a model file of cora, got a part of one; get it again"),
        ([*MODEL, "half.pth"], "expected a model file of cora, got a ZIP archive or a PyTorch file; name"),
        ([*MODEL, "photos"], "model photos: expected a file, got a folder; name a file in it"),
        pytest.param(
            [*MODEL, "image.onnx"],
            "expected an ONNX file, got a PNG image; export it again",
            marks=pytest.mark.integration,  # needs onnx
        ),
        pytest.param(
            [*MODEL, "text.onnx"],
            "expected an ONNX file, got a damaged file or one of another kind; export it again",
            marks=pytest.mark.integration,
        ),
        ([*MODEL, "note.xml"], "expected a graph of OpenVINO that `cora export` wrote, got a file of another kind"),
        ([*MODEL, "zip.tflite"], "expected a LiteRT file that `cora export` wrote, got a ZIP archive"),
        (["models", "photos"], "photos: expected a file, got a folder; name a file in it"),
        (["models", "picture"], "expected a model file of cora, got a PNG image; name"),
        (["convert", "photos", "--output", "a.safetensors"], "expected a checkpoint file, got a folder: photos; name"),
        (["convert", "picture", "--output", "a.safetensors"], "picture: expected a file of tensors, got a PNG image"),
        (["convert", "half.pth", "--output", "a.safetensors"], "an archive that is damaged, or no PyTorch file)"),
        (["convert", "tensors.pth", "--output", "a.safetensors"], "got 1 tensor without"),
        # Annotations, splits and other JSON.
        (["evaluate", *PHOTOS[:3], "image.json"], "expected an annotation file, got a PNG image; name another file"),
        (
            ["evaluate", *PHOTOS[:3], "half.json"],
            "got text that cannot be read as JSON (it breaks off in line 1); mend",
        ),
        (["evaluate", *PHOTOS[:3], "deep.json"], "got text that cannot be read as JSON (nested too deep); mend"),
        (["evaluate", *PHOTOS[:3], "zip"], "got zip; name another file"),
        (["evaluate", "--images", "picture", *PHOTOS[2:]], "expected a folder of images, got a file: picture; check"),
        (["evaluate", "--images", "none", *PHOTOS[2:]], "expected a folder of images, got no folder at none; check"),
        (["evaluate", *PHOTOS[2:], "--predictions", "photos"], "expected a COCO results file, got a folder: photos"),
        (["evaluate", *PHOTOS[2:], "--predictions", "zip"], "expected a COCO results file, got a ZIP archive"),
        (["evaluate", *PHOTOS[2:], "--predictions", "good.json"], "got 1 result without a score (first: "),
        (
            ["evaluate", *PHOTOS, "--split", "photos"],
            "expected JSON with the lists base and novel, got a folder; check",
        ),
        (["evaluate", *PHOTOS, "--split", "good.json"], "expected base to be a list of names, got nothing; is it a"),
        (["evaluate", *PHOTOS, "--split", "picture"], "expected JSON with the lists base and novel, got a PNG image"),
        (
            ["evaluate", *PHOTOS, "--study", "half.json", "--report", "r"],
            "expected the report.json of `cora study`, got",
        ),
        (["evaluate", *PHOTOS, "--study", "photos", "--report", "r"], "got a folder: photos; give --study that"),
        (["evaluate", *PHOTOS, "--descriptions", "picture"], "expected a JSON file of descriptions, got a PNG image"),
        (
            ["evaluate", *PHOTOS, "--descriptions", "deep.json"],
            "got text that cannot be read as JSON (nested too deep)",
        ),
        (["evaluate", *PHOTOS, "--templates", "deep.json"], "got text that cannot be read as JSON (nested too deep)"),
        (["evaluate", *PHOTOS, "--templates", "photos"], "or a file of them, got a folder: photos; check the path"),
        (["evaluate", *PHOTOS, "--class-weights", "half.json"], "cannot read half.json: text that cannot be read as"),
        (["split", "photos", "--split", "coco", "--part", "base", "--output", "s.json"], "got a folder: photos; name"),
        (
            ["split", "picture", "--split", "coco", "--part", "base", "--output", "s.json"],
            "got a PNG image; name another",
        ),
        (
            ["split", "text", "--split", "coco", "--part", "base", "--output", "s.json"],
            "got text that cannot be read as",
        ),
        (["shards", "--images", "picture", "--output", "s"], "expected a folder of images, got a file: picture"),
        (
            ["study", "train", *PHOTOS, "--run", "s", "--config", "photos"],
            "settings of a study, could not read it: a fol",
        ),
        (["study", "train", *PHOTOS, "--run", "s", "--config", "picture"], "could not read it: a PNG image"),
        # Class names, images and videos.
        ([*CLASSES, "@picture"], "expected a file of class names, got a PNG image: picture; name another"),
        ([*CLASSES, "@long.csv"], "got field larger than field limit (131072); write one name a line"),
        ([*CLASSES, "@long_key.json"], "expected a JSON list of class names, got something else; write"),
        ([*CLASSES, "@photos"], "expected a file of class names, got a folder: photos; check the path"),
        (
            [*CLASSES, "@half.json"],
            "expected a list of class names, got text that cannot be read as JSON (it breaks off",
        ),
        (["detect", "zip", "--classes", "cat"], "got a ZIP archive or a PyTorch file: zip; name an image"),
        (["detect", "photos", "--classes", "cat", "--exemplar", "a=zip"], "PyTorch file: zip; name an image"),
        (
            ["serve", "--host", "0.0.0.0", "--token-file", "photos"],
            "expected a file with a token, got a folder: photos",
        ),
    ],
)
def test_the_message_says_what_the_file_is(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err, err
    assert err.count("\n") == 1, err
    assert not any(word in err for word in INTERNAL), err


def test_an_output_that_is_a_format_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["batch", "photos", "--classes", "cat", "--output", "labels"])
    assert "got 'labels'; the folder is named by --to; see 'cora batch --help'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("detect", "--heads"),
        ("detect", "--timeout"),
        ("evaluate", "--classes"),
        ("search", "--db"),
        ("shards", "--model"),
        ("distill", "--model"),
        ("export", "--score"),
        ("convert", "--class-weights"),
    ],
)
def test_an_option_of_another_command_is_no_misspelt_one(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([command, option, "1"])
    assert f"unknown option {option}; see 'cora {command} --help'" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_option_that_lacks_a_letter_is_suggested(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {flag for action in COMMANDS[command]._actions for flag in action.option_strings if len(flag) > 5}
    for flag in flags:
        wrong = f"{flag[:4]}{flag[5:]}"
        if not any(one.startswith(wrong) for one in flags):
            with pytest.raises(SystemExit, match="2"):
                COMMANDS[command].parse_args([wrong])
            err = capsys.readouterr().err
            assert f"unknown option {wrong}, did you mean {flag}?" in err, err
