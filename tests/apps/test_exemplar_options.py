"""`--exemplar NAME=FILE[#x,y,w,h]`: what is read, and what is refused."""

import argparse
from pathlib import Path

import pytest

from cora.apps.exemplar_options import add_exemplar_option, box, exemplar, gather


@pytest.mark.parametrize(
    ("text", "name", "path", "box_xyxy_px"),
    [
        ("logo=a.png", "logo", "a.png", None),
        (" my logo =a b.png", "my logo", "a b.png", None),
        ("logo=a.png#10,20,30,40", "logo", "a.png", (10, 20, 40, 60)),
        ("logo=a#1.png", "logo", "a#1.png", None),
        ("logo=a#1.png#0,0,1.5,2", "logo", "a#1.png", (0, 0, 1.5, 2)),
        ("logo=a=b.png", "logo", "a=b.png", None),
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
    parser = argparse.ArgumentParser()
    add_exemplar_option(parser)
    assert gather(parser.parse_args([]).exemplar) == {}
    given = parser.parse_args(
        ["--exemplar", "Logo=a.png", "--exemplar", "cup=c.png", "--exemplar", "logo=b.png#0,0,4,5"]
    )
    assert gather(given.exemplar) == {
        "Logo": [Path("a.png"), (Path("b.png"), (0, 0, 4, 5))],
        "cup": [Path("c.png")],
    }
