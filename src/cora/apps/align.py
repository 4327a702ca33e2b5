"""`cora align`: its arguments; `align_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.model_options import add_resnet_option
from cora.apps.prune import add_measuring


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `align` to the commands."""
    parser = commands.add_parser(
        "align",
        help="bring fast scores near to exact ones, on images without labels",
        description="Learn how embeddings of fast pooling differ from exact ones, so that fewer boxes need exact "
        "pooling. Takes minutes and images without labels; nothing else of the model changes.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.MODEL, json=kinds.ALIGNED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora align`."""
    add_resnet_option(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="images; they need no labels")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="model file to write")
    parser.add_argument(
        "--exact-boxes",
        type=positive,
        metavar="N",
        help="boxes of an image that the written model still pools exactly (default: the model's)",
    )
    add_measuring(parser, photos=500)


def run(args: argparse.Namespace) -> int:
    """Fit the alignment; returns the exit code."""
    from cora.apps.align_run import align_model

    return align_model(args)
