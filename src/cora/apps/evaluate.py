"""`cora evaluate` and `cora region-accuracy`: their arguments; `measure.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora evaluate`."""
    _add_common(parser)
    parser.add_argument(
        "--rename",
        metavar="FILE",
        help='measure again with other names: JSON of plain name to synonym, or "coco" for the shipped list',
    )
    parser.add_argument(
        "--class-weights",
        type=Path,
        metavar="FILE",
        help="JSON of class name to weight in pre-matching (default: all 1)",
    )
    parser.add_argument("--score", type=_share, default=0.001, help="lowest score kept (default: %(default)s)")


def add_region_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora region-accuracy`."""
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO annotation file")
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help='JSON with the lists "base" and "novel" (default: all classes are one group)',
    )
    parser.add_argument("--model", default="nano", help="name or path of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: a GPU if there is one)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--resamples",
        type=_positive,
        default=200,
        metavar="N",
        help="bootstrap resamples (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to this file")


def run(args: argparse.Namespace) -> int:
    """Box AP of novel, base and all classes, and the same with synonyms if asked; returns the exit code."""
    from cora.apps.measure import measure_boxes

    return measure_boxes(args)


def run_regions(args: argparse.Namespace) -> int:
    """Accuracy of ground-truth boxes among all classes; returns the exit code."""
    from cora.apps.measure import measure_regions

    return measure_regions(args)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in 0..1, got {text!r}")
    return value
