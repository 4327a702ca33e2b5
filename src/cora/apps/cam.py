"""`cora cam`: where a frozen CLIP sees named classes in an image; its arguments, `cam_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.model_options import add_classes_option, add_device_option
from cora.apps.study import add_tower


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cam` to the commands."""
    parser = commands.add_parser(
        "cam",
        help="draw where a frozen CLIP sees named classes",
        description="Draw where a frozen CLIP sees named classes in an image (CLIP Surgery).",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.PICTURE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora cam`."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the image")
    add_classes_option(parser, prompts=False)
    add_tower(parser)
    parser.add_argument(
        "--layers", type=positive, default=2, metavar="N", help="last layers that are averaged (default: %(default)s)"
    )
    parser.add_argument(
        "--side", type=positive, default=384, metavar="PX", help="the image's short side (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("cam.png"), metavar="FILE.png", help="(default: %(default)s)"
    )
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the maps; returns the exit code."""
    from cora.apps.cam_run import draw_cams

    return draw_cams(args)
