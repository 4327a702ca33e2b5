"""`cora pseudo-label`: boxes for images that have captions, tags or a class list only (CORA+)."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, score
from cora.apps.command import set_command
from cora.apps.model_options import add_class_agnostic_option, add_device_option, add_model_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pseudo-label` to the commands."""
    parser = commands.add_parser(
        "pseudo-label",
        help="boxes for images that have captions or tags only",
        description="Boxes for images that have captions, tags or a list of classes only, as a new annotation file.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.PSEUDO)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora pseudo-label`."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="COCO captions (JSON), or a table of file,text or file,tag;tag (CSV, TSV): each image is searched for the "
        "nouns of its own captions",
    )
    what.add_argument("--classes", metavar="NAMES", help='search all images for "cat, remote control", or @FILE')
    what.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="take the boxes of another detector: COCO results or scored COCO file",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="annotation file to write")
    add_model_option(parser, "name or path of the detector that labels")
    add_device_option(parser)
    parser.add_argument("--score", type=score, default=0.5, help="least score of a box, 0 to 1 (default: %(default)s)")
    parser.add_argument(
        "--class-scores",
        metavar="LIST",
        help='least scores of some names: "cup=0.3,dog=0.2", or a file of such (lines, or JSON {"cup": 0.3})',
    )
    parser.add_argument(
        "--real",
        type=Path,
        metavar="ANNOTATIONS",
        help="annotations of images in IMAGES: no pseudo box overlaps a real one, ids agree",
    )
    parser.add_argument(
        "--merge", action="store_true", help="write the real boxes too, and the pseudo boxes alone to FILE-pseudo.json"
    )
    words = parser.add_argument_group("captions")
    words.add_argument(
        "--texts",
        choices=("auto", "captions", "tags"),
        default="auto",
        help="what the texts are (default: by the header, or by semicolons between short texts)",
    )
    words.add_argument(
        "--nouns-from",
        type=Path,
        metavar="FILE",
        help="only these names, one a line (default: every noun of the shipped English list)",
    )
    rules = parser.add_argument_group("classes")
    rules.add_argument(
        "--split",
        metavar="SPLIT",
        help='coco, lvis, or a JSON file with the lists "base" and "novel"; see --novel-names',
    )
    rules.add_argument(
        "--novel-names",
        choices=("refuse", "drop", "keep"),
        default="refuse",
        help="names of the split's novel classes: an error, left out, or used and counted (default: %(default)s)",
    )
    rules.add_argument(
        "--distractors",
        metavar="NAMES",
        help="other things that compete and are never labelled, or 'none' (default: the model's choice)",
    )
    rules.add_argument(
        "--min-per-class", type=positive, default=1, metavar="N", help="with --merge: rarer ones are left out"
    )
    rules.add_argument(
        "--max-per-class", type=positive, metavar="N", help="with --merge: at most the best N of a class"
    )
    add_class_agnostic_option(rules)
    others = parser.add_argument_group("other detectors")
    others.add_argument(
        "--image-list", type=Path, metavar="FILE", help="COCO JSON with the images and categories of --results"
    )
    others.add_argument("--teacher", metavar="NAME", help="what found the boxes of --results (default: its file name)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out bad lines and missing images instead of stopping"
    )


def run(arguments: argparse.Namespace) -> int:
    """Label, write and print a summary; exit code 1 if some images could not be used."""
    from cora.apps.label_photos import label_photos

    return label_photos(arguments)
