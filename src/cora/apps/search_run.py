"""`cora search`: words or an image in, regions out: a table, JSON, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from cora.apps.exemplar_options import Box
from cora.apps.open_model import open_torch_detector
from cora.console import error_console, output_console, report, say
from cora.errors import CoraError
from cora.files import write_json, write_picture
from cora.images import read_image
from cora.retrieval import Hit, RegionIndex
from cora.retrieval.sheet import draw_hits

_SUFFIXES = (".jpg", ".jpeg", ".png")


def search(
    *,
    db: Path,
    text: str | None,
    image: Path | None,
    box_xyxy_px: Box | None,
    top: int,
    per_picture: int | None,
    json_path: Path | None,
    sheet: Path | None,
    model: str | None,
    device: str,
) -> int:
    """Search, print and write; everything that can be checked is checked before a model is loaded.

    Args:
        db: folder of the index.
        text: what to search for in words; None with `image`.
        image: what to search for as an image; None with `text`.
        box_xyxy_px: the part of the image that counts; None for all of it.
        top: how many regions.
        per_picture: at most so many of one image; None for no limit.
        json_path: where to write them as JSON, if anywhere.
        sheet: where to draw them, if anywhere.
        model: name or file; None for the one that is noted in the index.
        device: name of a torch device, or "auto".

    Returns:
        Exit code 0, or 1 if the file of a region could not be drawn.

    Raises:
        CoraError: bad input.
    """
    if box_xyxy_px is not None and image is None:
        raise CoraError("--box: expected an --image that it is a part of, got none; name the image")
    picture = None if image is None else read_image(image)
    if sheet is not None and sheet.suffix.lower() not in _SUFFIXES:
        raise CoraError(f"--sheet: expected a file .jpg or .png, got {sheet}")
    index = RegionIndex.open(db)
    detector = open_torch_detector(model or index.model_name, device, needs="cora search", trained=False)
    if picture is None:
        hits = index.search_text(detector, text or "", top, per_picture=per_picture)
    else:
        hits = index.search_image(detector, picture, box_xyxy_px, top, per_picture=per_picture)
    _print(hits, index)
    if json_path is not None:
        query = {"text": text} if image is None else {"image": str(image), "bbox": _bbox(box_xyxy_px)}
        write_json(json_path, to_json(hits, query=query, folder=index.folder))
    missing: list[str] = []
    if sheet is not None and hits:
        drawn = draw_hits(index.folder, hits, missing=missing, query=_query(picture, box_xyxy_px))
        write_picture(sheet, drawn, quality=88)
    for problem in missing:
        report(error_console(), problem)
    return 1 if missing else 0


def to_json(hits: Sequence[Hit], *, query: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The regions as plain values: boxes x, y, width, height in pixels, files relative to the folder."""
    regions = [
        {
            "file": hit.file,
            "bbox": _bbox(hit.box_xyxy_px),
            "similarity": round(hit.similarity, 5),
            "score": round(hit.score, 5),
            "label": hit.label,
            "copies": list(hit.copies),
        }
        for hit in hits
    ]
    return {"query": query, "folder": str(folder), "regions": regions}


def _bbox(box_xyxy_px: Box | None) -> list[float] | None:
    if box_xyxy_px is None:
        return None
    left, top, right, bottom = box_xyxy_px
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]


def _query(picture: Image.Image | None, box_xyxy_px: Box | None) -> Image.Image | None:
    if picture is None or box_xyxy_px is None:
        return picture
    return picture.crop(tuple(round(corner) for corner in box_xyxy_px))  # type: ignore[arg-type]


def _print(hits: Sequence[Hit], index: RegionIndex) -> None:
    console = output_console()
    if not hits:
        console.print("Nothing found: the index has no regions.")
        return
    labelled = index.settings.classes is not None
    table = Table("file", "similarity", *(["class"] if labelled else []), "score", "box: left, top, right, bottom")
    table.columns[0].overflow = "fold"  # a cut path would be useless
    for hit in hits:
        corners = ", ".join(f"{corner:.0f}" for corner in hit.box_xyxy_px)
        # Text, not str: names and paths with brackets are no markup.
        names = [Text(hit.label or "")] if labelled else []
        table.add_row(Text(hit.file), f"{hit.similarity:.3f}", *names, f"{hit.score:.2f}", corners)
    console.print(table)
    say(console, f"{len(hits)} of {len(index)} regions; files are in {index.folder}.")
