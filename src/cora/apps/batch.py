"""`cora batch`: its arguments; `batch_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, score, whole
from cora.apps.class_weights import add_class_weights_option
from cora.apps.command import set_command
from cora.apps.exemplar_options import add_exemplar_option
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
from cora.apps.tile_options import add_tile_options

_SHEET = 48


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `batch` to the commands."""
    parser = commands.add_parser(
        "batch",
        help="label many images: resumable, by several processes or machines",
        description="Label many images: folders, lists and shards in; Parquet, COCO, YOLO or VOC labels out.",
        epilog="The same command again goes on where a run stopped. "
        "Exit code: 0 done; 1 some images could not be read; 2 bad input.",
    )
    add_arguments(parser)
    set_command(parser, run, to=kinds.BATCH)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora batch`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="INPUT",
        help="folder (with all below it), image, webdataset shard (.tar), or @FILE with a path a line",
    )
    add_classes_option(parser, optional=True)
    add_exemplar_option(parser)
    parser.add_argument(
        "--output",
        choices=("parquet", "coco", "yolo", "voc"),
        default="coco",
        help="format of the labels (default: %(default)s)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("cora-batch"),
        metavar="DIR",
        help="folder of the results, new or of an earlier run, which goes on (default: %(default)s)",
    )
    parser.add_argument(
        "--photos",
        choices=("none", "link", "copy"),
        help="put the images beside the labels (default: link for yolo and voc, none else)",
    )
    _add_model(parser)
    labels = parser.add_argument_group("labels")
    add_score_option(labels, "of a label")
    add_class_agnostic_option(labels, names_given=False)
    labels.add_argument(
        "--thresholds", metavar="LIST", help='own least scores of some classes: "cat=0.3,dog=0.2", or a file of such'
    )
    labels.add_argument(
        "--keep",
        type=score,
        metavar="SCORE",
        help="least score that is remembered, so that thresholds can be lowered to it later without detecting again "
        "(default: what the thresholds and the review list need)",
    )
    review = parser.add_argument_group("review list")
    review.add_argument(
        "--review", metavar="LOW,HIGH", help="list boxes with a score of LOW or more and below HIGH, labels or not"
    )
    review.add_argument(
        "--margin",
        type=score,
        default=0.0,
        metavar="M",
        help="list labels whose best other class has a score less than M lower",
    )
    review.add_argument(
        "--review-format", choices=("csv", "json"), default="csv", help="of the list (default: %(default)s)"
    )
    review.add_argument(
        "--review-sheet",
        type=whole,
        nargs="?",
        const=_SHEET,
        default=0,
        metavar="N",
        help="draw the N most uncertain ones on a contact sheet, review/sheet.jpg (default of N: %(const)s)",
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine, or a Ray cluster (default: %(default)s)",
    )
    machines.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="workers, each with a model (default: %(default)s)"
    )
    machines.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        metavar="N",
        help="images of one size in one pass, at most (default: %(default)s)",
    )
    add_device_option(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add_model_option(parser)
    add_distractors_option(parser)
    add_text_options(parser)
    add_class_weights_option(parser)
    add_tile_options(parser)
    add_text_model_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Label many images; returns the exit code."""
    from cora.apps.batch_run import batch

    return batch(arguments)
