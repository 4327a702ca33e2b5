"""What comes in place of a file that was to be fetched (a web page, a pointer, nothing) is called by its name."""

import os
from pathlib import Path

import pytest
from PIL import Image

from cora.apps.cli import main
from cora.files import content_of

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
PAGE = "\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
STAND_INS = {
    "pointer": (POINTER, "got a pointer of Git LFS; fetch the file itself with 'git lfs pull'"),
    "page": (PAGE, "got a web page; fetch the file itself"),
}
EMPTY = ("", "got an empty file; get it again")

#: Command, with FILE for the stand-in -> its ending; and whether nothing stands in, too, as an empty file.
COMMANDS = {
    "detect photos/white.jpg --classes cup --model FILE": ((".pt", ".safetensors", ".onnx"), True),
    "evaluate --images photos --annotations boxes.json --model FILE": ((".pth", ".safetensors"), True),
    "convert FILE --output new.safetensors": ((".pt", ".pth", ".bin"), True),
    "evaluate --images photos --annotations FILE": ((".json",), False),
    "evaluate --images photos --annotations boxes.json --predictions FILE": ((".json",), False),
    "detect photos/white.jpg --classes @FILE": ((".txt", ".json", ".names"), False),
    "pseudo-label photos --captions FILE --output new.json": ((".json", ".csv"), False),
}
BOXES = (
    '{"images": [{"id": 1, "file_name": "white.jpg", "width": 80, "height": 60}],'
    ' "categories": [{"id": 1, "name": "cup"}],'
    ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]}'
)


def refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    before = sorted(os.listdir())
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("cora: error: ")
    assert sorted(os.listdir()) == before
    return captured.err


@pytest.mark.parametrize("what", [*STAND_INS, "nothing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_named(folder: Path, capsys: pytest.CaptureFixture[str], command: str, what: str) -> None:
    endings, even_empty = COMMANDS[command]
    content, message = STAND_INS.get(what, EMPTY)
    Path("boxes.json").write_text(BOXES)
    for ending in endings:
        file = f"fetched{ending}"
        Path(file).write_text(content)
        if what != "nothing" or even_empty:
            assert message in refusal(capsys, command.replace("FILE", file).split())
        Path(file).unlink()


@pytest.mark.parametrize("what", [*STAND_INS, "nothing"])
def test_images(folder: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], what: str) -> None:
    content, message = STAND_INS.get(what, EMPTY)
    Path("photos/white.jpg").write_text(content)
    found, _, advice = message.removeprefix("got ").partition("; ")
    advice = advice if content else "check the file"
    assert f", got {found}: photos/white.jpg; {advice}" in refusal(
        capsys, ["detect", "photos/white.jpg", "--classes", "cup"]
    )
    # One of several does not lose the others.
    assert main(["detect", "photos", "--classes", "cup"]) == 1
    assert f", got {found}: photos/white.jpg; {advice}" in capsys.readouterr().err


@pytest.mark.parametrize("what", [*STAND_INS, "nothing"])
def test_videos(folder: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], what: str) -> None:
    pytest.importorskip("av", reason="needs the extra video")
    content, message = STAND_INS.get(what, EMPTY)
    Path("clip.mp4").write_text(content)
    assert message in refusal(capsys, ["video", "clip.mp4", "--classes", "cup"])


def test_an_empty_label_file_says_that_there_is_no_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/white.txt").touch()
    Path("photos/black.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    Path("photos/classes.txt").write_text("cup\n")
    assert main(["shards", "--images", "photos", "--annotations", "photos", "--output", "shards"]) == 0
    assert "2 images, 1 box in 1 shard in shards" in capsys.readouterr().out


def test_a_folder_is_no_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    detect = ["detect", "photos/white.jpg", "--classes", "cup", "--model", "./run"]
    assert "got a folder; name a file in it\n" in refusal(capsys, detect)
    Path("run/model.safetensors").touch()
    assert f"name a file in it, {Path('run/model.safetensors')} perhaps" in refusal(capsys, detect)


def test_a_part_of_an_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.xml").write_text("<?xml version='1.0'?><net/>")
    detect = ["detect", "photos/white.jpg", "--classes", "cup", "--model", "own.xml"]
    assert "model own.xml: expected own.bin beside it" in refusal(capsys, detect)
    Path("own.bin").write_bytes(b"1234")
    assert "model own.xml: expected own.json beside it" in refusal(capsys, detect)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw image"),
        (b"II*\0\x08\0\0\0", "a TIFF image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP image"),
        (b"RIFF\x10\0\0\0AVI LIST", "a video"),
        (bytes(128) + b"DICM", "a DICOM image"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<annotation/>", None),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"a cat, a dog", None),
        (b"", None),
    ],
)
def test_contents(head: bytes, name: str | None) -> None:
    found = content_of(head)
    assert (found and found[0]) == name


def test_tiffs_that_are_not_decoded_are_called_tiffs(
    folder: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("F", (9, 9), 0.5).save("a.tif")
    content = Path("a.tif").read_bytes()
    Path("a.tif").write_bytes(content[:30])
    err = refusal(capsys, ["detect", "a.tif", "--classes", "cup"])
    assert "got a TIFF image that is damaged or truncated, or of bits and channels that are not decoded: a.tif" in err
