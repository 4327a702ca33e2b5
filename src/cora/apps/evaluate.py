"""`cora evaluate` and `cora region-accuracy`: their arguments.

`measure_boxes.py` and `measure_regions.py` do the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, score
from cora.apps.command import set_command
from cora.apps.model_options import add_class_agnostic_option, add_device_option
from cora.apps.process_options import add_process_options
from cora.apps.scoring_options import add_scoring_options
from cora.apps.text_options import add_text_options
from cora.apps.tile_options import add_tile_options


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate` and `region-accuracy` to the commands."""
    boxes = commands.add_parser(
        "evaluate",
        help="box AP of a model on an annotated folder",
        description="Box AP of novel, base and all classes on an annotated folder, with intervals.",
    )
    add_arguments(boxes)
    set_command(boxes, run, json=kinds.EVALUATION, report=kinds.REPORT)
    regions = commands.add_parser(
        "region-accuracy",
        help="how often a model names ground-truth boxes right",
        description="How often a model names ground-truth boxes right among all classes of a folder.",
    )
    add_region_arguments(regions)
    set_command(regions, run_regions, json=kinds.REGION_ACCURACY)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora evaluate`."""
    _add_common(parser, photos=False)
    parser.add_argument(
        "--run",
        type=Path,
        dest="finetuned",
        metavar="DIR",
        help="instead of --images and --annotations: the images that this run of 'cora finetune' held out, and its "
        "model unless --model names another",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="measure these detections (COCO results JSON, made anywhere) instead of a model; --images may be left out",
    )
    parser.add_argument(
        "--oracles",
        action="store_true",
        help="also what AP50 would be with one step perfect: true classes, true boxes, best boxes (implies --tide)",
    )
    parser.add_argument("--tide", action="store_true", help="also what each kind of error costs")
    add_class_agnostic_option(parser)
    add_tile_options(parser)
    add_scoring_options(parser)
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html with plots and images there")
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="report.json of `cora study`, whose verdict and histogram go into the report",
    )
    add_process_options(parser, again="starts anew if it is preempted")
    parser.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="images in one pass (default: %(default)s)"
    )
    parser.add_argument(
        "--rename",
        metavar="FILE",
        help='measure again with other names: JSON of plain name to synonym, or "coco" for the shipped list',
    )
    parser.add_argument(
        "--class-weights",
        metavar="WEIGHTS",
        help="measure again with these weights in pre-matching: JSON file of class name to weight, or novel=8 for a "
        "group of the split",
    )
    parser.add_argument(
        "--score", type=score, help="lowest score kept (default: 0.001; of predictions from a file all are kept)"
    )


def add_region_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora region-accuracy`."""
    _add_common(parser, photos=True)
    parser.add_argument(
        "--crops",
        action="store_true",
        help="also with every box cut out and encoded as an image of its own (CLIP ResNets, slow)",
    )


def _add_common(parser: argparse.ArgumentParser, *, photos: bool) -> None:
    parser.add_argument("--images", type=Path, required=photos, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--annotations",
        type=Path,
        required=photos,
        metavar="FILE",
        help="annotation file: COCO, LVIS, or as for training",
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help='JSON with the lists "base" and "novel", or "coco" or "lvis" (default: all classes are one group)',
    )
    parser.add_argument("--model", help="name or path of the model (default: nano, with --run the model of the run)")
    add_text_options(parser)
    add_device_option(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--resamples",
        type=positive,
        default=200,
        metavar="N",
        help="bootstrap resamples (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to this file")


def run(args: argparse.Namespace) -> int:
    """Box AP of novel, base and all classes, and what else was asked for; returns the exit code."""
    from cora.apps.measure_boxes import measure_boxes

    return measure_boxes(args)


def run_regions(args: argparse.Namespace) -> int:
    """Accuracy of ground-truth boxes among all classes; returns the exit code."""
    from cora.apps.measure_regions import measure_regions

    return measure_regions(args)
