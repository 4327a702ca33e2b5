"""Draws the results of a search on a contact sheet: every region in a frame, with some of its surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from PIL import Image, ImageDraw

from cora.draw import contact_sheet
from cora.errors import ImageError
from cora.images import read_image
from cora.retrieval.index import Hit

_MARGIN = 0.35  # surroundings on each side of a region, as a share of its width or height
_FRAME_COLOUR = (230, 60, 40)
_MISSING_COLOUR = (200, 200, 200)


def draw_hits(
    folder: Path,
    hits: Sequence[Hit],
    *,
    missing: list[str],
    query: Image.Image | None = None,
    columns: int | None = None,
    cell_px: int = 200,
) -> Image.Image:
    """A contact sheet of regions, best first, each with its rank, similarity and file.

    Args:
        folder: folder that the files are relative to.
        hits: the results of the search, at least one.
        missing: gets a message for every file that can no longer be read; its cell is grey.
        query: the image that was searched for, shown first.
        columns: cells in a row; None for about as many as rows.
        cell_px: side of a cell in pixels.
    """
    captions = [f"{rank}: {hit.similarity:.3f}\n{hit.file}" for rank, hit in enumerate(hits, start=1)]
    cells = _cells(folder, hits, missing, cell_px)
    if query is None:
        return contact_sheet(cells, captions, columns=columns, cell_px=cell_px)
    return contact_sheet(chain([query], cells), ["searched for", *captions], columns=columns, cell_px=cell_px)


def _cells(folder: Path, hits: Sequence[Hit], missing: list[str], cell_px: int) -> Iterator[Image.Image]:
    for hit in hits:
        try:
            yield framed(read_image(folder / hit.file), hit.box_xyxy_px, cell_px)
        except ImageError as error:
            missing.append(str(error))
            yield Image.new("RGB", (cell_px, cell_px), _MISSING_COLOUR)


def framed(picture: Image.Image, box_xyxy_px: Sequence[float], cell_px: int = 200) -> Image.Image:
    """A region with its surroundings, scaled to a cell, and a frame around it; the whole image if it lies outside."""
    left, top, right, bottom = box_xyxy_px
    x, y = _MARGIN * (right - left), _MARGIN * (bottom - top)
    window = (
        max(0, round(left - x)),
        max(0, round(top - y)),
        min(picture.width, round(right + x)),
        min(picture.height, round(bottom + y)),
    )
    # The image may have been replaced by a smaller one.
    if window[0] >= window[2] or window[1] >= window[3]:
        return picture.copy()
    part = picture.crop(window)
    factor = cell_px / max(part.size)
    part = part.resize((max(1, round(part.width * factor)), max(1, round(part.height * factor))))
    corners = [(left - window[0]) * factor, (top - window[1]) * factor]
    corners += [(right - window[0]) * factor, (bottom - window[1]) * factor]
    limits = (part.width - 1, part.height - 1) * 2
    inside = [min(max(0.0, corner), limit) for corner, limit in zip(corners, limits, strict=True)]
    line, canvas = max(2, cell_px // 80), ImageDraw.Draw(part)
    # White inside the colour makes the frame visible on things of that colour.
    canvas.rectangle(inside, outline="white", width=line + max(1, line // 2))
    canvas.rectangle(inside, outline=_FRAME_COLOUR, width=line)
    return part
