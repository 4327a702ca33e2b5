"""`cora split` writes the annotations of one part of a benchmark; `cora shards` packs images into a few large files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cora.apps import kinds
from cora.apps.argument_types import positive, seed_number
from cora.apps.command import Command
from cora.apps.data_options import ImageOptions
from cora.apps.options import argument, group, option
from cora.errors import DataError
from cora.files import json_kind, write_json

#: Value of --part -> part of the split; the published code has names of its own for two of them.
_PARTS: dict[str, Literal["base", "novel", "all"]] = {
    "base": "base",
    "novel": "novel",
    "all": "all",
    "target": "novel",
    "basetarget": "all",
}


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of `cora split`."""

    annotations: Path = argument(metavar="FILE", help="official annotations, COCO or LVIS")
    split: str = option(required=True, metavar="FILE", help='"coco", "lvis", or JSON with base and novel')
    part: str = option(
        required=True,
        choices=tuple(_PARTS),
        help="base to train on, all (basetarget) to test on, or novel (target) alone",
    )
    output: Path = option(required=True, writes=kinds.SPLIT, help="annotation file to write")


def split(options: SplitOptions) -> int:
    """Write one part of the annotations; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    from cora.console import output_console, say
    from cora.data.benchmarks import split_annotations
    from cora.data.class_split import open_split
    from cora.data.coco_content import MAX_JSON_BYTES
    from cora.data.problems import parse_json, read_text

    wanted = open_split(options.split)
    text = read_text(options.annotations, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    content = parse_json(text, options.annotations, "a COCO or LVIS file")
    if not isinstance(content, dict):
        raise DataError(f"{options.annotations}: expected a COCO or LVIS object, got {json_kind(content)}")
    kept = split_annotations(content, wanted, _PARTS[options.part], source=options.annotations)
    write_json(options.output, kept, indent=None)
    counts = ", ".join(
        f"{len(kept[key])} of {len(content[key])} {what}"
        for key, what in (("images", "images"), ("annotations", "boxes"), ("categories", "classes"))
    )
    say(output_console(), f"Wrote {options.output}: {counts}")
    return 0


SPLIT = Command(
    name="split",
    options=SplitOptions,
    run=split,
    help="the base and target files of a benchmark",
    description="The annotation files of OV-COCO, OV-LVIS or a split of your own, from the official ones: the boxes of "
    "one part of the classes, and the images that take part.",
    epilog="Commands that take --split coco or --split lvis do the same on the fly and need no such file.",
)


@dataclass(frozen=True, kw_only=True)
class ShardsOptions:
    """Options of `cora shards`."""

    data: ImageOptions = group(ImageOptions)
    output: Path = option(required=True, writes=kinds.SHARDS, metavar="DIR", help="folder for the shards")
    megabytes: int = option(type=positive, default=1000, help="largest size of a shard (default: %(default)s)")
    seed: int = option(type=seed_number, default=0, help="seed of the order of the images (default: %(default)s)")


def shards(options: ShardsOptions) -> int:
    """Write the shards; returns the exit code."""
    from cora.console import Bars, counted, output_console, say
    from cora.data.shards import write_shards

    dataset = options.data.read()
    with Bars() as bars:
        written = write_shards(
            dataset,
            folder=options.output,
            max_bytes=options.megabytes * 10**6,
            seed=options.seed,
            on_progress=lambda done, total: bars.update("writing shards", done, total),
        )
    boxes = int(dataset.class_counts().sum())
    what = f"{counted(len(dataset), 'image')}, {counted(boxes, 'box')} in {counted(len(written), 'shard')}"
    say(output_console(), f"{what} in {options.output}")
    return 0


SHARDS = Command(
    name="shards",
    options=ShardsOptions,
    run=shards,
    help="pack annotated images into a few large files",
    description="Pack images and their boxes into tar files, in webdataset's convention.",
    epilog="Train on them with 'cora train ... --images DIR', without --annotations.",
)
