"""`cora shards`: annotated images into a few large files that training reads piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, whole
from cora.apps.command import Command
from cora.apps.options import group, option
from cora.apps.train_options import ImageOptions


@dataclass(frozen=True, kw_only=True)
class ShardsOptions:
    """Options of `cora shards`."""

    data: ImageOptions = group(ImageOptions)
    output: Path = option(required=True, writes=kinds.SHARDS, metavar="DIR", help="folder for the shards")
    megabytes: int = option(type=positive, default=1000, help="of a shard, at most (default: %(default)s)")
    seed: int = option(type=whole, default=0, help="of the order of the images (default: %(default)s)")


def run(options: ShardsOptions) -> int:
    """Write the shards; returns the exit code."""
    from cora.console import Bars, output_console, say
    from cora.data.shards import write_shards

    dataset = options.data.read()
    with Bars() as bars:
        shards = write_shards(
            dataset,
            folder=options.output,
            max_bytes=options.megabytes * 10**6,
            seed=options.seed,
            on_progress=lambda done, total: bars.update("writing shards", done, total),
        )
    boxes = int(dataset.class_counts().sum())
    say(output_console(), f"{len(dataset)} images, {boxes} boxes in {len(shards)} shards in {options.output}")
    return 0


COMMAND = Command(
    name="shards",
    options=ShardsOptions,
    run=run,
    help="pack annotated images into a few large files",
    description="Pack images and their boxes into tar files, in webdataset's convention.",
    epilog="Train on them with 'cora train ... --images DIR', without --annotations.",
)
