"""Options for small objects, shared by the commands that find boxes: tiles, and a larger input of the model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from cora.apps.argument_types import positive, share
from cora.errors import CoraError

if TYPE_CHECKING:
    from cora.predictor import Predictor, Tiles

_OVERLAP, _MOST_OVERLAP = 0.2, 0.9
_MOST = 32
_FEWEST_PIXELS = 32  # the image towers halve their input five times


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Add --tiles, --tile-size, --tile-overlap and --short-side."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--tiles",
        type=_count,
        metavar="ROWSxCOLUMNS",
        help="for small objects: look at so many overlapping parts of an image, too, such as 2x2",
    )
    how.add_argument(
        "--tile-size", type=_pixels, metavar="PX", help="the same, by the height and width of a part in pixels"
    )
    parser.add_argument(
        "--tile-overlap",
        type=_overlap,
        metavar="SHARE",
        help=f"least share of a part that its neighbour covers, too (default: {_OVERLAP})",
    )
    parser.add_argument(
        "--short-side",
        type=_pixels,
        metavar="PX",
        help="resize images to this length of their shorter side instead of the model's own",
    )


def read_tiles(args: argparse.Namespace) -> Tiles | None:
    """The tiles that were asked for, if any.

    Raises:
        CoraError: an overlap of no tiles.
    """
    if args.tiles is None and args.tile_size is None:
        if args.tile_overlap is not None:
            raise CoraError(
                f"expected --tiles or --tile-size beside --tile-overlap {args.tile_overlap:g}, got neither; name one"
            )
        return None
    from cora.predictor import Tiles

    overlap = _OVERLAP if args.tile_overlap is None else args.tile_overlap
    return Tiles(size_px=args.tile_size, count=args.tiles, overlap=overlap)


def set_short_side(detector: Predictor, short_side: int | None) -> None:
    """Let a predictor resize images to another shorter side; the limit of the longer one changes in proportion.

    Raises:
        CoraError: the detector is an exported file, whose input has one size.
    """
    if short_side is None:
        return
    from cora.images import Preprocessor
    from cora.predictor import TorchModel

    if not isinstance(detector.model, TorchModel):
        raise CoraError(
            f"--short-side {short_side}: expected a model by name or a checkpoint, got an exported file, whose input "
            "is fixed; export it for that size"
        )
    config = detector.preprocessor.config
    long_side = round(config.long_side * short_side / config.short_side)
    detector.preprocessor = Preprocessor.from_config(replace(config, short_side=short_side, long_side=long_side))


def _count(text: str) -> tuple[int, int]:
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and 1 <= int(rows) <= _MOST and 1 <= int(columns) <= _MOST):
        raise argparse.ArgumentTypeError(f"expected rows and columns up to {_MOST}x{_MOST}, such as 2x3, got {text!r}")
    return int(rows), int(columns)


def _pixels(text: str) -> int:
    value = positive(text)
    if value < _FEWEST_PIXELS:
        raise argparse.ArgumentTypeError(f"expected {_FEWEST_PIXELS} pixels or more, got {text!r}")
    return value


def _overlap(text: str) -> float:
    value = share(text)
    if value >= _MOST_OVERLAP:
        raise argparse.ArgumentTypeError(f"expected a share below {_MOST_OVERLAP:g}, got {text!r}")
    return value
