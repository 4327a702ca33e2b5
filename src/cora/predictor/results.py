"""Detections of many images as COCO, as CSV, and as tables for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cora.images.web import shown
from cora.structures import Detections

#: Most images whose boxes are listed; for more images, boxes are counted by class.
_LISTED_IMAGES = 10
#: Most classes in the table of counts.
_SHOWN_CLASSES = 30
_CSV_HEADER = ("file", "class", "score", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Found:
    """The detections of one image; `source` is its path or URL."""

    source: Path | str
    detections: Detections

    @property
    def file(self) -> str:
        """The source as shown in files and tables: a URL without its secrets."""
        return self.source.as_posix() if isinstance(self.source, Path) else shown(self.source)


def to_csv(results: Sequence[Found]) -> str:
    """CSV with a row per box: file, class, score, and left, top, right, bottom in pixels."""
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(_CSV_HEADER)
    for result in results:
        for name, score, box in result.detections:
            table.writerow([result.file, name, f"{score:.5f}", *(f"{corner:.2f}" for corner in box)])
    return rows.getvalue()


def to_coco(results: Sequence[Found], names: Sequence[str], *, made_by: str) -> dict[str, Any]:
    """Content of a COCO file: boxes are x, y, width, height in pixels; all ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        height, width = result.detections.image_size
        images.append({"id": image_id, "file_name": result.file, "height": height, "width": width})
        for entry in result.detections.to_coco(image_id):
            box = [round(value, 2) for value in entry["bbox"]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    **entry,
                    "bbox": box,
                    "score": round(entry["score"], 5),
                    # Tools that read COCO data sets require these two.
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    info = {"made_by": made_by}
    return {"info": info, "images": images, "categories": categories, "annotations": annotations}


def results_table(results: Sequence[Found]) -> Table:
    """A table of the boxes; for many images, a table of counts by class."""
    return _boxes(results) if len(results) <= _LISTED_IMAGES else _classes(results)


def _boxes(results: Sequence[Found]) -> Table:
    table = Table("file", "class", "score", "box: left, top, right, bottom")
    for words, numbers in ((0, 2), (1, 3)):
        table.columns[words].overflow = "fold"  # a cut path or name would be useless
        table.columns[numbers].justify = "right"
        table.columns[numbers].no_wrap = True
    for result in results:
        for name, value, box in result.detections:
            corners = ", ".join(f"{corner:.0f}" for corner in box)
            # Text, not str: names and paths with brackets are no markup.
            table.add_row(Text(result.file), Text(name), f"{value:.2f}", corners)
    return table


def _classes(results: Sequence[Found]) -> Table:
    """A row per class, most objects first: objects, images with such objects, best score and its image."""
    objects: dict[str, int] = {}
    images: dict[str, set[str]] = {}
    best: dict[str, tuple[float, str]] = {}
    for result in results:
        for name, score, _ in result.detections:
            objects[name] = objects.get(name, 0) + 1
            images.setdefault(name, set()).add(result.file)
            best[name] = max(best.get(name, (0.0, result.file)), (score, result.file), key=lambda one: one[0])
    order = sorted(objects, key=lambda name: (-objects[name], name))
    table = Table("class", "objects", "images", "best score", "in")
    for column in table.columns[1:4]:
        column.justify = "right"
    table.columns[4].overflow = "fold"
    for name in order[:_SHOWN_CLASSES]:
        score, path = best[name]
        table.add_row(Text(name), str(objects[name]), str(len(images[name])), f"{score:.2f}", Text(path))
    if len(order) > _SHOWN_CLASSES:
        rest = order[_SHOWN_CLASSES:]
        table.add_row(Text(f"{len(rest)} other classes"), str(sum(objects[name] for name in rest)), "", "", "")
    return table
