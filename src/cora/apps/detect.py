"""`cora detect`: its arguments; `image.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps.argument_types import score
from cora.apps.text_options import add_text_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora detect`."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="picture, folder (the pictures in it) or glob pattern"
    )
    parser.add_argument(
        "--classes",
        required=True,
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line',
    )
    parser.add_argument(
        "--distractors",
        metavar="NAMES",
        help="other things that may be in the pictures, like --classes, or 'none'; they compete with the classes and "
        "are never reported (default: the model's own choice)",
    )
    add_text_options(parser)
    parser.add_argument("--model", default="nano", help="name (see 'cora models') or file (default: %(default)s)")
    parser.add_argument(
        "--score", type=score, default=0.3, help="least score that is shown, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("cora-output"),
        metavar="DIR",
        help="folder of the drawn pictures (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all boxes in COCO format")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: a GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    """Find named objects in pictures; returns the exit code."""
    from cora.apps.image import detect

    return detect(
        sources=arguments.sources,
        classes=arguments.classes,
        model=arguments.model,
        score=arguments.score,
        output=arguments.output,
        json_path=arguments.json,
        device=arguments.device,
        distractors=arguments.distractors,
        templates=arguments.templates,
        descriptions=arguments.descriptions,
    )
