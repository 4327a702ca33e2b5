"""What a search found, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cora.retrieval.index import Hit


def hits_table(hits: Sequence[Hit], *, labelled: bool) -> Table:
    """A row for every region; `labelled`: with its class."""
    table = Table("file", "similarity", *(["class"] if labelled else []), "score", "box: left, top, right, bottom")
    table.columns[0].overflow = "fold"  # a cut path would be useless
    for hit in hits:
        corners = ", ".join(f"{corner:.0f}" for corner in hit.box_xyxy_px)
        # Text, not str: names and paths with brackets are no markup.
        names = [Text(hit.label or "")] if labelled else []
        table.add_row(Text(hit.file), f"{hit.similarity:.3f}", *names, f"{hit.score:.2f}", corners)
    return table


def hits_to_json(hits: Sequence[Hit], *, query: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The regions as plain values: boxes x, y, width, height in pixels, files relative to the folder."""
    regions = [
        {
            "file": hit.file,
            "bbox": to_bbox(hit.box_xyxy_px),
            "similarity": round(hit.similarity, 5),
            "score": round(hit.score, 5),
            "label": hit.label,
            "copies": list(hit.copies),
        }
        for hit in hits
    ]
    return {"query": query, "folder": str(folder), "regions": regions}


def to_bbox(box_xyxy_px: tuple[float, float, float, float] | None) -> list[float] | None:
    """x, y, width, height of the corners of a box; None for none."""
    if box_xyxy_px is None:
        return None
    left, top, right, bottom = box_xyxy_px
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]
