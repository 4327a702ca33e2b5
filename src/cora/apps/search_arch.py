"""`cora search-arch`: its arguments; `search_arch_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.command import set_command
from cora.apps.model_options import add_resnet_option
from cora.apps.prune import add_measuring


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `search-arch` to the commands."""
    parser = commands.add_parser(
        "search-arch",
        help="the best smaller model within a time an image on this machine",
        description="Searches sizes of a model (width, depth, layers, anchors, resolution) within a time an image.",
        epilog="The same command again goes on where it stopped; --trials counts those of earlier calls.",
    )
    add_arguments(parser)
    set_command(parser, run, run_dir=kinds.SEARCH_RUN, json=kinds.SEARCHED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora search-arch`."""
    add_resnet_option(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="images to measure on")
    parser.add_argument("--budget", type=above_zero, required=True, metavar="MS", help="milliseconds an image")
    parser.add_argument("--trials", type=positive, default=50, metavar="N", help="architectures (default: %(default)s)")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", dest="run_dir", help="folder of the search")
    parser.add_argument(
        "--proxy-epochs",
        type=whole,
        default=0,
        metavar="N",
        help="distil every candidate for so many passes over the images before its quality is measured (default: 0)",
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="timed runs, of which the median counts (%(default)s)"
    )
    add_measuring(parser)


def run(args: argparse.Namespace) -> int:
    """Search sizes; returns the exit code."""
    from cora.apps.search_arch_run import search_architecture

    return search_architecture(args)
