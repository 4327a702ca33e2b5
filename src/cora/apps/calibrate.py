"""`cora calibrate`: its arguments; `calibrate_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.model_options import add_class_agnostic_option, add_device_option, add_model_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `calibrate` to the commands."""
    parser = commands.add_parser(
        "calibrate",
        help="set a model's score threshold on annotated images",
        description="Set a model's score threshold, and whether everyday names compete, for the best F1 on annotated "
        "images, and store both in a new model file; no weight changes.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.MODEL, json=kinds.CALIBRATED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora calibrate`."""
    add_model_option(parser, "name or file of the model")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="images that the model is not judged by later"
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="their boxes: COCO, LVIS, or as for training"
    )
    parser.add_argument(
        "--split", type=Path, metavar="FILE", help='class split whose names are looked for: JSON, "coco" or "lvis"'
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="model file to write")
    parser.add_argument(
        "--at-once",
        type=positive,
        metavar="N",
        help="look for N classes at a time, as people do, until all had their turn (default: all at once)",
    )
    add_class_agnostic_option(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to this file")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print and write; returns the exit code."""
    from cora.apps.calibrate_run import calibrate

    return calibrate(args)
