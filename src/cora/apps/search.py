"""`cora index` stores the regions of a folder of images; `cora search` finds some of them by words or by an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cora.apps import kinds
from cora.apps.argument_types import Box, positive
from cora.apps.argument_types import box as box_type
from cora.apps.argument_types import score as score_type
from cora.apps.command import Command
from cora.apps.model_options import device_option
from cora.apps.options import OneOf, argument, option, switch
from cora.errors import CoraError
from cora.files import write_json, write_picture

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Options of `cora index`."""

    folder: Path = argument(metavar="DIR", help="folder of images, all levels of it")
    db: Path = option(required=True, writes=kinds.INDEX, metavar="PATH", help="folder of the index, made or updated")
    classes: str | None = option(
        metavar="NAMES",
        help='keep regions that look like these names: "cat, cup", @FILE with one name a line, or lvis for the 1,203 '
        "names of LVIS (default: whatever looks like an object)",
    )
    score: float | None = option(type=score_type, help="least score of a region that is kept, 0 to 1 (default: 0.05)")
    regions: int | None = option(type=positive, help="regions kept per image (default: 50)")
    rehash: bool = switch(help="read every file, also those whose size and time did not change")
    model: str | None = option(help="name (see 'cora models') or file (default: the index's, nano for a new one)")
    device: str = device_option()


def index(options: IndexOptions) -> int:
    """Make an index or bring it up to date, and say what was done.

    Returns:
        Exit code: 0, or 1 if some images could not be read.

    Raises:
        CoraError: bad input.
    """
    from cora.apps.open_model import open_torch_detector, tell_distractors
    from cora.console import IS, counted, error_console, output_console, report, say, tracked
    from cora.regions import class_prompts, other_prompts
    from cora.retrieval import RegionIndex, RegionSettings
    from cora.retrieval.manifest import MANIFEST, given_settings
    from cora.retrieval.update import list_pictures, no_pictures

    given = given_settings(options.classes, options.score, options.regions)
    if not list_pictures(options.folder):
        raise no_pictures(options.folder)
    before = RegionIndex.open(options.db) if (options.db / MANIFEST).exists() else None
    # Compared with None, since an index without regions has the length 0 and is false.
    settings = replace(RegionSettings() if before is None else before.settings, **given)
    name = options.model or ("nano" if before is None else before.model_name)
    detector = open_torch_detector(name, options.device, needs="cora index")
    if settings.classes is not None:
        asked = class_prompts(settings.classes)
        tell_distractors(detector, (*asked, *other_prompts(asked)), None, switch="the model's own choice")
    try:
        made, done = RegionIndex.build(
            options.db,
            options.folder,
            detector,
            settings=settings,
            model_name=str(Path(name).resolve()) if Path(name).is_file() else name,
            rehash=options.rehash,
            progress=lambda files: tracked(files, "indexing"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("while indexing; what is done is kept, the same command goes on") from None
    errors = error_console()
    for problem in done.problems[:_SHOWN_PROBLEMS]:
        report(errors, problem)
    if done.problems:
        report(errors, f"{len(done.problems)} of the images could not be read", "warning")
    say(output_console(), f"{done} {counted(len(made), 'region', IS)} in {options.db}.")
    return 1 if done.problems else 0


INDEX = Command(
    name="index",
    options=IndexOptions,
    run=index,
    help="make a folder of images searchable",
    description="Find the regions of all images in a folder and store them for 'cora search'.",
    epilog="The same command again brings the index up to date, or goes on where it was stopped. "
    "Exit code: 0 done; 1 some images could not be read; 2 bad input; 130 Ctrl-C.",
)

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


def search(options: SearchOptions) -> int:
    """Search, print and write; everything that can be checked is checked before a model is loaded.

    Returns:
        Exit code 0, or 1 if the file of a region could not be drawn.

    Raises:
        CoraError: bad input.
    """
    from cora.apps.open_model import open_torch_detector
    from cora.console import counted, error_console, output_console, report, say
    from cora.images import read_image
    from cora.retrieval import RegionIndex
    from cora.retrieval.results import hits_table, hits_to_json, to_bbox
    from cora.retrieval.sheet import draw_hits

    if options.box is not None and options.image is None:
        raise CoraError("--box: expected an --image that it is a part of, got none; name the image")
    image = None if options.image is None else read_image(options.image)
    if options.sheet is not None and options.sheet.suffix.lower() not in _SUFFIXES:
        raise CoraError(f"--sheet: expected a file .jpg or .png, got {options.sheet}")
    region_index = RegionIndex.open(options.db)
    detector = open_torch_detector(
        options.model or region_index.model_name, options.device, needs="cora search", trained=False
    )
    if image is None:
        hits = region_index.search_text(detector, options.text or "", options.top, per_picture=options.per_picture)
    else:
        hits = region_index.search_image(detector, image, options.box, options.top, per_picture=options.per_picture)
    console = output_console()
    if hits:
        console.print(hits_table(hits, labelled=region_index.settings.classes is not None))
        say(console, f"{len(hits)} of {counted(len(region_index), 'region')}; files are in {region_index.folder}.")
    else:
        console.print("Nothing found: the index has no regions.")
    if options.json is not None:
        query: dict[str, Any] = {"text": options.text}
        if options.image is not None:
            query = {"image": str(options.image), "bbox": to_bbox(options.box)}
        write_json(options.json, hits_to_json(hits, query=query, folder=region_index.folder))
    missing: list[str] = []
    if options.sheet is not None and hits:
        query_image = image
        if image is not None and options.box is not None:
            left, top, right, bottom = (round(corner) for corner in options.box)
            query_image = image.crop((left, top, right, bottom))
        drawn = draw_hits(region_index.folder, hits, missing=missing, query=query_image)
        write_picture(options.sheet, drawn, quality=88)
    for problem in missing:
        report(error_console(), problem)
    return 1 if missing else 0


SEARCH = Command(
    name="search",
    options=SearchOptions,
    run=search,
    help="find regions of an index by words or by an image",
    description="Find regions of an index by words or by an image: prints a table, writes JSON and an image.",
)
