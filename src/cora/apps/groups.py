"""`cora groups`: which classes a tower can hardly tell apart; its arguments, `groups_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_model_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `groups` to the commands."""
    parser = commands.add_parser(
        "groups",
        help="which classes a model can hardly tell apart",
        description="Groups of classes by spherical k-means of their embeddings: which a model can hardly tell apart.",
    )
    add_arguments(parser)
    set_command(parser, run, json=kinds.GROUPS, picture=kinds.PICTURE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora groups`."""
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line '
        "(default: those of the annotations)",
    )
    parser.add_argument("--groups", type=positive, required=True, metavar="K", help="number of groups")
    parser.add_argument("--images", type=Path, metavar="DIR", help="annotated images: also measure what is confused")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="their boxes (COCO, LVIS, VOC or YOLO)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    add_model_option(parser, "name or path of the model")
    add_device_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the grouping (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write groups and all numbers to this file")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw what is alike and what is confused")


def run(arguments: argparse.Namespace) -> int:
    """Group, measure if there are images, print and write; returns the exit code."""
    from cora.apps.groups_run import group_classes

    return group_classes(arguments)
