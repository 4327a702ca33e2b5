"""`cora shards`: annotated images into a few large files that training reads piece by piece."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, whole
from cora.apps.command import set_command
from cora.apps.train_options import add_photos


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `shards` to the commands."""
    parser = commands.add_parser(
        "shards",
        help="pack annotated images into a few large files",
        description="Pack images and their boxes into tar files, in webdataset's convention.",
        epilog="Train on them with 'cora train ... --images DIR', without --annotations.",
    )
    add_photos(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the shards")
    parser.add_argument(
        "--megabytes", type=positive, default=1000, metavar="N", help="of a shard, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the order of the images (default: %(default)s)"
    )
    set_command(parser, run, output=kinds.SHARDS)


def run(args: argparse.Namespace) -> int:
    """Write the shards; returns the exit code."""
    from cora.apps.train_run import read_photos
    from cora.console import Bars, output_console, say
    from cora.data.shards import write_shards

    dataset = read_photos(args, None)
    with Bars() as bars:
        shards = write_shards(
            dataset,
            folder=args.output,
            max_bytes=args.megabytes * 10**6,
            seed=args.seed,
            on_progress=lambda done, total: bars.update("writing shards", done, total),
        )
    boxes = int(dataset.class_counts().sum())
    say(output_console(), f"{len(dataset)} images, {boxes} boxes in {len(shards)} shards in {args.output}")
    return 0
