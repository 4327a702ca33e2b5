"""`cora search`: its arguments; `search_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.exemplar_options import box
from cora.apps.model_options import add_device_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `search` to the commands."""
    parser = commands.add_parser(
        "search",
        help="find regions of an index by words or by an image",
        description="Find regions of an index by words or by an image: prints a table, writes JSON and an image.",
    )
    add_arguments(parser)
    set_command(parser, run, json=kinds.HITS, sheet=kinds.PICTURE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora search`."""
    parser.add_argument("db", type=Path, metavar="PATH", help="index that 'cora index' made")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="WORDS", help='what to search for in words, "a red cup"')
    query.add_argument("--image", type=Path, metavar="FILE", help="what to search for as an image")
    parser.add_argument("--box", type=box, metavar="x,y,w,h", help="the part of --image that counts, in pixels")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="regions shown (default: %(default)s)")
    parser.add_argument(
        "--per-picture", type=positive, metavar="N", help="show at most N regions of one image (default: no limit)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the regions as JSON")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also draw the regions on one image (.jpg, .png)")
    parser.add_argument("--model", help="name or file of the model that made the index (default: as it is noted there)")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search an index; returns the exit code."""
    from cora.apps.search_run import search

    return search(
        db=arguments.db,
        text=arguments.text,
        image=arguments.image,
        box_xyxy_px=arguments.box,
        top=arguments.top,
        per_picture=arguments.per_picture,
        json_path=arguments.json,
        sheet=arguments.sheet,
        model=arguments.model,
        device=arguments.device,
    )
