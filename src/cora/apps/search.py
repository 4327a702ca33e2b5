"""`cora search`: words or an image in, regions of an index out: a table, JSON, a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cora.apps import kinds
from cora.apps.argument_types import Box, positive
from cora.apps.argument_types import box as box_type
from cora.apps.command import Command
from cora.apps.model_options import device_option
from cora.apps.options import OneOf, argument, option

_QUERY = OneOf(required=True)
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `cora search`."""

    db: Path = argument(metavar="PATH", help="index that 'cora index' made")
    text: str | None = option(one_of=_QUERY, metavar="WORDS", help='what to search for in words, "a red cup"')
    image: Path | None = option(one_of=_QUERY, help="what to search for as an image")
    box: Box | None = option(type=box_type, metavar="x,y,w,h", help="the part of --image that counts, in pixels")
    top: int = option(type=positive, default=10, help="regions shown (default: %(default)s)")
    per_picture: int | None = option(type=positive, help="show at most N regions of one image (default: no limit)")
    json: Path | None = option(writes=kinds.HITS, help="also write the regions as JSON")
    sheet: Path | None = option(writes=kinds.PICTURE, help="also draw the regions on one image (.jpg, .png)")
    model: str | None = option(help="name or file of the model that made the index (default: as it is noted there)")
    device: str = device_option()


def run(options: SearchOptions) -> int:
    """Search, print and write; everything that can be checked is checked before a model is loaded.

    Returns:
        Exit code 0, or 1 if the file of a region could not be drawn.

    Raises:
        CoraError: bad input.
    """
    from cora.apps.open_model import open_torch_detector
    from cora.console import error_console, output_console, report, say
    from cora.errors import CoraError
    from cora.files import write_json, write_picture
    from cora.images import read_image
    from cora.retrieval import RegionIndex
    from cora.retrieval.results import hits_table, hits_to_json, to_bbox
    from cora.retrieval.sheet import draw_hits

    if options.box is not None and options.image is None:
        raise CoraError("--box: expected an --image that it is a part of, got none; name the image")
    image = None if options.image is None else read_image(options.image)
    if options.sheet is not None and options.sheet.suffix.lower() not in _SUFFIXES:
        raise CoraError(f"--sheet: expected a file .jpg or .png, got {options.sheet}")
    index = RegionIndex.open(options.db)
    detector = open_torch_detector(
        options.model or index.model_name, options.device, needs="cora search", trained=False
    )
    if image is None:
        hits = index.search_text(detector, options.text or "", options.top, per_picture=options.per_picture)
    else:
        hits = index.search_image(detector, image, options.box, options.top, per_picture=options.per_picture)
    console = output_console()
    if hits:
        console.print(hits_table(hits, labelled=index.settings.classes is not None))
        say(console, f"{len(hits)} of {len(index)} regions; files are in {index.folder}.")
    else:
        console.print("Nothing found: the index has no regions.")
    if options.json is not None:
        query: dict[str, Any] = {"text": options.text}
        if options.image is not None:
            query = {"image": str(options.image), "bbox": to_bbox(options.box)}
        write_json(options.json, hits_to_json(hits, query=query, folder=index.folder))
    missing: list[str] = []
    if options.sheet is not None and hits:
        query_image = image
        if image is not None and options.box is not None:
            left, top, right, bottom = (round(corner) for corner in options.box)
            query_image = image.crop((left, top, right, bottom))
        drawn = draw_hits(index.folder, hits, missing=missing, query=query_image)
        write_picture(options.sheet, drawn, quality=88)
    for problem in missing:
        report(error_console(), problem)
    return 1 if missing else 0


COMMAND = Command(
    name="search",
    options=SearchOptions,
    run=run,
    help="find regions of an index by words or by an image",
    description="Find regions of an index by words or by an image: prints a table, writes JSON and an image.",
)
