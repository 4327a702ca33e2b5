"""`--exemplar NAME=FILE[#x,y,w,h]`: what is read, and what is refused."""

import argparse
import json
from pathlib import Path

import pytest

from cora.apps.argument_types import box, exemplar
from cora.apps.cli import main
from cora.apps.command import Parser
from cora.apps.model_options import NamesOptions
from cora.apps.options import add_options, read_options
from tests.detector.conftest import tiny_detector
from tests.retrieval.conftest import write_picture


@pytest.mark.parametrize(
    ("text", "name", "path", "box_xyxy_px"),
    [
        ("logo=a.png", "logo", "a.png", None),
        (" my logo =a b.png", "my logo", "a b.png", None),
        ("logo=a.png#10,20,30,40", "logo", "a.png", (10, 20, 40, 60)),
        ("logo=a#1.png", "logo", "a#1.png", None),
        ("logo=a#1.png#0,0,1.5,2", "logo", "a#1.png", (0, 0, 1.5, 2)),
        ("logo=a=b.png", "logo", "a=b.png", None),
        ("logo = a.png", "logo", "a.png", None),
        ("logo = a.png #1,2,3,4", "logo", "a.png", (1, 2, 4, 6)),
    ],
)
def test_forms(text: str, name: str, path: str, box_xyxy_px: tuple[float, ...] | None) -> None:
    assert tuple(exemplar(text)) == (name, Path(path), box_xyxy_px)


@pytest.mark.parametrize("text", ["a.png", "=a.png", "logo=", "logo=a.png#1,2,3", "logo=a.png#1,2,0,4", "logo=a.png#"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        exemplar(text)


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "-1,0,5,5", "0,0,5,0.5", "0,0,inf,5", "0,0,nan,5"])
def test_other_boxes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a box x,y,width,height"):
        box(text)


def test_repeated_and_gathered_by_name_whatever_its_case() -> None:
    parser = add_options(Parser(), NamesOptions)
    assert read_options(NamesOptions, parser.parse_args([])).exemplars() == {}
    given = parser.parse_args(
        ["--exemplar", "Logo=a.png", "--exemplar", "cup=c.png", "--exemplar", "logo=b.png#0,0,4,5"]
    )
    assert read_options(NamesOptions, given).exemplars() == {
        "Logo": [Path("a.png"), (Path("b.png"), (0, 0, 4, 5))],
        "cup": [Path("c.png")],
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two images and a small network of random weights."""
    monkeypatch.chdir(tmp_path)
    write_picture(Path("a.png"), 1)
    write_picture(Path("logo.png"), 2)
    tiny_detector(tmp_path / "cache").save("tiny.safetensors")
    return tmp_path


DETECT = ["detect", "a.png", "--model", "tiny.safetensors", "--device", "cpu", "--score", "0", "--json", "boxes.json"]


def test_detect_by_words_and_pictures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exemplars = ["--exemplar", "my logo=logo.png#4,4,20,20", "--exemplar", "my logo=logo.png"]
    assert main([*DETECT, "--classes", "cat", *exemplars]) == 0
    content = json.loads(Path("boxes.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["cat", "my logo"]
    assert {entry["category_id"] for entry in content["annotations"]} == {1, 2}
    assert "my logo" in capsys.readouterr().out


def test_detect_by_pictures_alone(here: Path) -> None:
    assert main([*DETECT, "--exemplar", "my logo=logo.png"]) == 0
    assert [entry["name"] for entry in json.loads(Path("boxes.json").read_text())["categories"]] == ["my logo"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exemplar", "logo=none.png"], "got no file at none.png"),
        (["--exemplar", "logo=logo.png#40,0,20,20"], "within an image of 48 x 32 pixels (logo.png)"),
        (["--exemplar", "logo.png"], "expected NAME=FILE"),
    ],
)
def test_bad_exemplars_are_one_line_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    try:
        code: object = main([*DETECT, *options])
    except SystemExit as ending:  # argparse's way
        code = ending.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("boxes.json").exists()
    assert not Path("cora-output").exists()
