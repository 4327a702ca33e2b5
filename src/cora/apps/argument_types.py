"""Types of options: functions that read the text of a value and check it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

Number = TypeVar("Number", int, float)

_OVERLAP_LIMIT = 0.9
_MOST_TILES = 32  # in a row, and in a column
#: The image towers halve their input five times; memory ends long before the greatest side.
_FEWEST_PIXELS, _MOST_PIXELS = 32, 65_536

#: x, y, width, height on the command line; left, top, right, bottom everywhere else.
Box = tuple[float, float, float, float]


class NamedPicture(NamedTuple):
    """One `--exemplar`: a class, an image of it, and the box in the image (None for the whole image)."""

    name: str
    path: Path
    box_xyxy_px: Box | None


def _checked(read: Callable[[str], Number], fits: Callable[[Number], bool], expected: str) -> Callable[[str], Number]:
    """A type of numbers for which `fits` is true; `expected` says in errors what they are."""

    def value_of(text: str) -> Number:
        with suppress(ValueError):
            value = read(text)
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return value_of


def _digits(text: str) -> int:
    return int(text if text.isdecimal() else "")  # int takes signs, blanks and underscores, too


positive = _checked(_digits, lambda value: value >= 1, "a whole number of 1 or more")
whole = _checked(_digits, lambda value: True, "a whole number of 0 or more")
_SEEDS = 2**63  # what torch takes
seed_number = _checked(_digits, lambda value: value < _SEEDS, f"a seed, a whole number of 0 to {_SEEDS - 1}")
port = _checked(_digits, lambda value: value <= 65535, "a port, 0 to 65535")
# NaN fails every comparison.
above_zero = _checked(float, lambda value: 0 < value < float("inf"), "a number above 0")
zero_or_more = _checked(float, lambda value: 0 <= value < float("inf"), "a number of 0 or more")
score = _checked(float, lambda value: 0 <= value <= 1, "a number in 0..1")
grey_levels = _checked(float, lambda value: 0 <= value <= 255, "grey levels in 0..255")
share = _checked(float, lambda value: 0 <= value < 1, "a number of 0 or more and below 1")


def tile_count(text: str) -> tuple[int, int]:
    """Rows and columns, written 2x3."""
    rows, _, columns = text.lower().partition("x")
    if not (
        rows.isdecimal() and columns.isdecimal() and 1 <= int(rows) <= _MOST_TILES and 1 <= int(columns) <= _MOST_TILES
    ):
        most = f"{_MOST_TILES}x{_MOST_TILES}"
        raise argparse.ArgumentTypeError(f"expected rows and columns up to {most}, such as 2x3, got {text!r}")
    return int(rows), int(columns)


def pixels(text: str) -> int:
    """Length of a side of an image, in pixels."""
    value = positive(text)
    if not _FEWEST_PIXELS <= value <= _MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"expected {_FEWEST_PIXELS} to {_MOST_PIXELS} pixels, got {text!r}")
    return value


def overlap(text: str) -> float:
    """Share of a tile that its neighbour also covers."""
    value = share(text)
    if value >= _OVERLAP_LIMIT:
        raise argparse.ArgumentTypeError(f"expected a share below {_OVERLAP_LIMIT:g}, got {text!r}")
    return value


def exemplar(text: str) -> NamedPicture:
    """A class and its image. What follows the last # is a box if it looks like one, else part of the file name."""
    name, equals, place = text.partition("=")
    if not equals or not name.strip() or not place.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=FILE or NAME=FILE#x,y,w,h, got {text!r}")
    file, mark, end = place.rpartition("#")
    if not mark or not set(end) <= set("0123456789.,+-eE "):
        return NamedPicture(name.strip(), Path(place.strip()), None)
    return NamedPicture(name.strip(), Path(file.strip()), box(end))


def box(text: str) -> Box:
    """A box, written x,y,width,height in pixels, as its corners (left, top, right, bottom)."""
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a box x,y,width,height in pixels, got {text!r}") from None
    if not (x >= 0 and y >= 0 and 1 <= width < float("inf") and 1 <= height < float("inf")):
        raise argparse.ArgumentTypeError(
            f"expected a box x,y,width,height in pixels, x and y 0 or more, the sides 1 or more, got {text!r}"
        )
    return (x, y, x + width, y + height)
