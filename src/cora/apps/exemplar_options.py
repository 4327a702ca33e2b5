"""`--exemplar NAME=FILE[#x,y,w,h]`: classes by images on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cora.names import name_key

#: x, y, width, height on the command line; left, top, right, bottom everywhere else.
Box = tuple[float, float, float, float]


class NamedPicture(NamedTuple):
    """One `--exemplar`: a class, an image of it, and where in the image (None: all of it)."""

    name: str
    path: Path
    box_xyxy_px: Box | None


def add_exemplar_option(parser: argparse.ArgumentParser) -> None:
    """`--exemplar`, any number of times."""
    parser.add_argument(
        "--exemplar",
        type=exemplar,
        action="append",
        default=[],
        metavar="NAME=FILE[#x,y,w,h]",
        help="a class by an image of it, or by a box in an image (pixels); repeat it for more images and classes; "
        "a NAME that is also in --classes is searched for by words and images",
    )


def exemplar(text: str) -> NamedPicture:
    """A class and its image. What follows the last # is a box if it looks like one, else part of the file's name."""
    name, equals, place = text.partition("=")
    if not equals or not name.strip() or not place.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=FILE or NAME=FILE#x,y,w,h, got {text!r}")
    file, mark, end = place.rpartition("#")
    if not mark or not set(end) <= set("0123456789.,+-eE "):
        return NamedPicture(name.strip(), Path(place), None)
    return NamedPicture(name.strip(), Path(file), box(end))


def box(text: str) -> Box:
    """Corners (left, top, right, bottom) in pixels of a box that is written x,y,width,height."""
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a box x,y,width,height in pixels, got {text!r}") from None
    if not (x >= 0 and y >= 0 and 1 <= width < float("inf") and 1 <= height < float("inf")):
        raise argparse.ArgumentTypeError(
            f"expected a box x,y,width,height in pixels, x and y 0 or more, the sides 1 or more, got {text!r}"
        )
    return (x, y, x + width, y + height)


def gather(pictures: Sequence[NamedPicture]) -> dict[str, list[Path | tuple[Path, Box]]]:
    """Images by class, as `predict(exemplars=...)` takes them; names are one however they are spelled."""
    spelled: dict[str, str] = {}
    classes: dict[str, list[Path | tuple[Path, Box]]] = {}
    for name, path, box_xyxy_px in pictures:
        name = spelled.setdefault(name_key(name), name)
        classes.setdefault(name, []).append(path if box_xyxy_px is None else (path, box_xyxy_px))
    return classes
