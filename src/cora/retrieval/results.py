"""The results of a search as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cora.retrieval.index import Hit


def hits_table(hits: Sequence[Hit], *, labelled: bool) -> Table:
    """A table with a row for every region; `labelled` adds its class."""
    table = Table("file", "similarity", *(["class"] if labelled else []), "score", "box: left, top, right, bottom")
    table.columns[0].overflow = "fold"  # a path must not be shortened
    for hit in hits:
        corners = ", ".join(f"{corner:.0f}" for corner in hit.box_xyxy_px)
        # Text, not str: rich would take brackets in names and paths for markup.
        names = [Text(hit.label or "")] if labelled else []
        table.add_row(Text(hit.file), f"{hit.similarity:.3f}", *names, f"{hit.score:.2f}", corners)
    return table


def hits_to_json(hits: Sequence[Hit], *, query: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The regions for JSON: boxes are x, y, width, height in pixels, files relative to the folder."""
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
    """A box as x, y, width, height, for JSON; None for None."""
    if box_xyxy_px is None:
        return None
    left, top, right, bottom = box_xyxy_px
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]
