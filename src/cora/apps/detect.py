"""`cora detect`: its arguments; `image.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import score
from cora.apps.class_weights import add_class_weights_option
from cora.apps.command import set_command
from cora.apps.exemplar_options import add_exemplar_option, gather
from cora.apps.model_options import (
    add_class_agnostic_option,
    add_classes_option,
    add_device_option,
    add_distractors_option,
    add_model_option,
    add_score_option,
    add_text_model_option,
)
from cora.apps.text_options import add_text_options
from cora.apps.tile_options import add_tile_options, read_tiles


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `detect` to the commands."""
    parser = commands.add_parser(
        "detect",
        help="find named objects in images",
        description="Find named objects in images: prints a table (of many images, by class) and draws the boxes.",
        epilog="Exit code: 0 done, even with nothing found; 1 some images of a batch failed; 2 bad input.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.DRAWN, json=kinds.DETECTIONS, csv=kinds.DETECTION_TABLE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora detect`."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder (the images in it), URL or glob pattern"
    )
    add_classes_option(parser, optional=True)
    add_exemplar_option(parser)
    add_distractors_option(parser)
    add_text_options(parser)
    add_class_weights_option(parser)
    add_model_option(parser)
    add_text_model_option(parser)
    add_score_option(parser, "that is shown")
    add_class_agnostic_option(parser, names_given=False)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("cora-output"),
        metavar="DIR",
        help="folder of the drawn images (default: %(default)s)",
    )
    parser.add_argument(
        "--fill",
        type=score,
        default=0.0,
        metavar="SHARE",
        help="opacity of the class's colour inside drawn boxes, 0 to 1 (default: %(default)g)",
    )
    add_tile_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all boxes in COCO format")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a row for every box")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find named objects in images; returns the exit code."""
    from cora.apps.image import detect

    return detect(
        sources=arguments.sources,
        classes=arguments.classes,
        exemplars=gather(arguments.exemplar),
        model=arguments.model,
        score=arguments.score,
        class_agnostic=arguments.class_agnostic,
        output=arguments.output,
        json_path=arguments.json,
        device=arguments.device,
        distractors=arguments.distractors,
        templates=arguments.templates,
        descriptions=arguments.descriptions,
        fill=arguments.fill,
        tiles=read_tiles(arguments),
        short_side=arguments.short_side,
        text_model=arguments.text_model,
        csv_path=arguments.csv,
        class_weights=arguments.class_weights,
    )
