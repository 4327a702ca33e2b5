"""`cora split`: the annotation files of a benchmark, from the official ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from cora.apps import kinds
from cora.apps.command import set_command

#: What the published code calls the parts -> what they are.
_PARTS: dict[str, Literal["base", "novel", "all"]] = {
    "base": "base",
    "novel": "novel",
    "all": "all",
    "target": "novel",
    "basetarget": "all",
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`cora split` and its arguments."""
    parser = commands.add_parser(
        "split",
        help="the base and target files of a benchmark",
        description="The annotation files of OV-COCO, OV-LVIS or a split of your own, from the official ones: the "
        "boxes of one part of the classes, and the images that take part.",
        epilog="Commands that take --split coco or --split lvis do the same on the fly and need no such file.",
    )
    parser.add_argument("annotations", type=Path, metavar="FILE", help="official annotations, COCO or LVIS")
    parser.add_argument("--split", required=True, metavar="FILE", help='"coco", "lvis", or JSON with base and novel')
    parser.add_argument(
        "--part",
        required=True,
        choices=tuple(_PARTS),
        help="base to train on, all (basetarget) to test on, or novel (target) alone",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="annotation file to write")
    set_command(parser, run, output=kinds.SPLIT)


def run(args: argparse.Namespace) -> int:
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

    split = open_split(args.split)
    text = read_text(args.annotations, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{args.annotations} cannot be read as JSON ({error}); expected a COCO or LVIS file") from error
    if not isinstance(content, dict):
        raise DataError(f"{args.annotations}: expected a COCO or LVIS object, got {type(content).__name__}")
    kept = split_annotations(content, split, _PARTS[args.part], source=args.annotations)
    write_json(args.output, kept, indent=None)
    counts = ", ".join(
        f"{len(kept[key])} of {len(content[key])} {what}"
        for key, what in (("images", "images"), ("annotations", "boxes"), ("categories", "classes"))
    )
    say(output_console(), f"Wrote {args.output}: {counts}")
    return 0
