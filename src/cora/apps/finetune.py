"""`cora finetune`: its arguments; `finetune_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import share
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_model_option
from cora.apps.train_options import add_photos, add_settings


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `finetune` to the commands."""
    parser = commands.add_parser(
        "finetune",
        help="adapt a model to your own boxes",
        description="Adapt a model to your own boxes: teaches it the names and the boxes of a small annotated set.",
        epilog="The same command again goes on where the run stopped.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.MODEL, run_dir=kinds.FINETUNE_RUN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora finetune`."""
    add_photos(parser)
    parser.add_argument(
        "--novel",
        default="",
        metavar="NAMES",
        help='classes that are measured but not trained on, "a, b" or @FILE: what an unseen class of this kind gets',
    )
    add_model_option(parser, "name or file to start from")
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("cora-finetune"),
        metavar="DIR",
        dest="run_dir",
        help="folder of the run (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="model file to write (default: model.safetensors in the run)"
    )
    parser.add_argument(
        "--hold-out",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="share of the images that is measured on and not trained on (default: %(default)s; 0 trains on all)",
    )
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="measure on these images instead")
    parser.add_argument("--val-annotations", type=Path, metavar="FILE", help="their boxes")
    parser.add_argument(
        "--keep",
        type=share,
        metavar="SHARE",
        help="share of the model's own localizer that stays: less is forgotten, less is learned (default: 0)",
    )
    parser.add_argument(
        "--remember-images", type=Path, metavar="DIR", help="images of what the model could before, measured twice"
    )
    parser.add_argument("--remember-annotations", type=Path, metavar="FILE", help="their boxes")
    parser.add_argument("--remember-split", metavar="FILE", help='their class split: JSON, "coco" or "lvis"')
    add_settings(parser, named=True)
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """Adapt a model to one's own boxes; returns the exit code."""
    from cora.apps.finetune_run import finetune

    return finetune(args)
