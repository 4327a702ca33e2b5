"""`cora index`: its arguments; `index_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, score
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `index` to the commands."""
    parser = commands.add_parser(
        "index",
        help="make a folder of images searchable",
        description="Find the regions of all images in a folder and store them for 'cora search'.",
        epilog="The same command again brings the index up to date, or goes on where it was stopped. "
        "Exit code: 0 done; 1 some images could not be read; 2 bad input; 130 Ctrl-C.",
    )
    add_arguments(parser)
    set_command(parser, run, db=kinds.INDEX)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora index`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of images, all levels of it")
    parser.add_argument("--db", type=Path, required=True, metavar="PATH", help="folder of the index, made or updated")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help='keep regions that look like these names: "cat, cup", @FILE with one name a line, or lvis for the 1,203 '
        "names of LVIS (default: whatever looks like an object)",
    )
    parser.add_argument("--score", type=score, help="least score of a region that is kept, 0 to 1 (default: 0.05)")
    parser.add_argument("--regions", type=positive, metavar="N", help="regions kept per image (default: 50)")
    parser.add_argument(
        "--rehash", action="store_true", help="look into every file, also those whose size and time did not change"
    )
    parser.add_argument("--model", help="name (see 'cora models') or file (default: the index's, nano for a new one)")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Index a folder of images; returns the exit code."""
    from cora.apps.index_run import index

    return index(
        folder=arguments.folder,
        db=arguments.db,
        classes=arguments.classes,
        score=arguments.score,
        regions=arguments.regions,
        rehash=arguments.rehash,
        model=arguments.model,
        device=arguments.device,
    )
