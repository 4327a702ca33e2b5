"""`cora split`: the annotation files of a benchmark, from the official ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cora.apps import kinds
from cora.apps.command import Command
from cora.apps.options import argument, option

#: What the published code calls the parts -> what they are.
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


def run(options: SplitOptions) -> int:
    """Write one part of the annotations; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    import json

    from cora.console import output_console, say
    from cora.data.benchmarks import split_annotations
    from cora.data.class_split import open_split
    from cora.data.coco_content import MAX_JSON_BYTES
    from cora.data.problems import read_text
    from cora.errors import DataError
    from cora.files import write_json

    split = open_split(options.split)
    text = read_text(options.annotations, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{options.annotations} cannot be read as JSON ({error}); expected a COCO or LVIS file"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{options.annotations}: expected a COCO or LVIS object, got {type(content).__name__}")
    kept = split_annotations(content, split, _PARTS[options.part], source=options.annotations)
    write_json(options.output, kept, indent=None)
    counts = ", ".join(
        f"{len(kept[key])} of {len(content[key])} {what}"
        for key, what in (("images", "images"), ("annotations", "boxes"), ("categories", "classes"))
    )
    say(output_console(), f"Wrote {options.output}: {counts}")
    return 0


COMMAND = Command(
    name="split",
    options=SplitOptions,
    run=run,
    help="the base and target files of a benchmark",
    description="The annotation files of OV-COCO, OV-LVIS or a split of your own, from the official ones: the boxes of "
    "one part of the classes, and the images that take part.",
    epilog="Commands that take --split coco or --split lvis do the same on the fly and need no such file.",
)
