"""What a search found, on one image: every region with a frame and some of what is around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from cora.draw import contact_sheet
from cora.errors import ImageError
from cora.images import read_image
from cora.retrieval.index import Hit

_AROUND = 0.35  # of a region's sides, shown on every side of it
_FRAME = (230, 60, 40)


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
        folder: that the files are relative to.
        hits: at least one.
        missing: takes a message for every file that cannot be read any more; its cell stays grey.
        query: the image that was searched for, shown first.
        columns: cells in a row; None for about a square.
        cell_px: sides of a cell.
    """
    captions = [f"{rank}: {hit.similarity:.3f}\n{hit.file}" for rank, hit in enumerate(hits, start=1)]
    pictures = _pictures(folder, hits, missing, cell_px)
    if query is None:
        return contact_sheet(pictures, captions, columns=columns, cell_px=cell_px)
    return contact_sheet(_first(query, pictures), ["searched for", *captions], columns=columns, cell_px=cell_px)


def _first(query: Image.Image, others: Iterator[Image.Image]) -> Iterator[Image.Image]:
    yield query
    yield from others


def _pictures(folder: Path, hits: Sequence[Hit], missing: list[str], cell_px: int) -> Iterator[Image.Image]:
    for hit in hits:
        try:
            yield framed(read_image(folder / hit.file), hit.box_xyxy_px, cell_px)
        except ImageError as error:
            missing.append(str(error))
            yield Image.new("RGB", (cell_px, cell_px), (200, 200, 200))


def framed(picture: Image.Image, box_xyxy_px: Sequence[float], cell_px: int = 200) -> Image.Image:
    """A region with what is around it, shrunk to a cell, and a frame where the region ends."""
    left, top, right, bottom = box_xyxy_px
    x, y = _AROUND * (right - left), _AROUND * (bottom - top)
    window = (
        max(0, round(left - x)),
        max(0, round(top - y)),
        min(picture.width, round(right + x)),
        min(picture.height, round(bottom + y)),
    )
    # An image that was replaced by a smaller one has nothing there.
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
    # White inside the colour, or it could not be seen on things that have it.
    canvas.rectangle(inside, outline="white", width=line + max(1, line // 2))
    canvas.rectangle(inside, outline=_FRAME, width=line)
    return part
