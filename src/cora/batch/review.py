"""The review list: boxes that a person should check, the most uncertain ones first."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Self

from PIL import Image, ImageDraw

from cora.batch.records import NONE, Box
from cora.batch.result_folder import ResultFolder
from cora.batch.settings import ReviewSettings
from cora.draw import Colour, class_colours, contact_sheet

#: Margin around a box on the sheet, as a share of its longer side, and the smallest margin in pixels.
_CONTEXT, _LEAST_CONTEXT_PX = 0.4, 12


@dataclass(frozen=True)
class Uncertain:
    """A row of the review list.

    Attributes:
        image_id: number of the image.
        file: its name.
        uncertainty: 1 where the decision could as well be the other one, down to 0 at the limits of the settings.
        reason: "score", "margin" or "score and margin".
        class_name: class of the box.
        score: score of the box, 0..1.
        threshold: score threshold of its class; a box with at least this score is a label.
        label: whether the box is a label.
        other_class: best other class of the same object, or "".
        other_score: score of that class, or 0.
        left: in pixels of the upright image, as are the other sides.
        top: y of the upper side.
        right: x of the right side.
        bottom: y of the lower side.
    """

    image_id: int
    file: str
    uncertainty: float
    reason: str
    class_name: str
    score: float
    threshold: float
    label: bool
    other_class: str
    other_score: float
    left: float
    top: float
    right: float
    bottom: float


_COLUMNS = [field.name for field in fields(Uncertain)]


def uncertainty(box: Box, threshold: float, settings: ReviewSettings) -> tuple[float, str]:
    """How uncertain a box is, and why.

    By score, it is 1 at the threshold of the class and falls to 0 at the farther end of `low`..`high`. By margin, it is
    1 where both classes have the same score and falls to 0 at `margin`. The larger one counts.

    Returns:
        The uncertainty, 0..1, and the reason; 0 and "" for a box that nobody needs to check.
    """
    reasons: dict[str, float] = {}
    if settings.low is not None and settings.high is not None and settings.low <= box.score < settings.high:
        reach = max(abs(settings.low - threshold), abs(settings.high - threshold))
        reasons["score"] = 1 - abs(box.score - threshold) / reach
    if box.score >= threshold and box.other != NONE and box.margin < settings.margin:
        reasons["margin"] = 1 - box.margin / settings.margin
    return max(reasons.values(), default=0.0), " and ".join(reasons)


class ReviewList:
    """Collects and sorts uncertain boxes, in a temporary database on disk instead of in memory.

    Args:
        classes: class names, in the order of their indices.
        thresholds: score threshold of each class.
        settings: which boxes are uncertain.
    """

    def __init__(self, *, classes: Sequence[str], thresholds: Sequence[float], settings: ReviewSettings) -> None:
        self._classes, self._thresholds, self._settings = tuple(classes), tuple(thresholds), settings
        self._table = sqlite3.connect("")
        self._table.execute(f"CREATE TABLE uncertain ({', '.join(_COLUMNS)})")
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def add(self, number: int, file_name: str, boxes: Sequence[Box]) -> None:
        """Add those boxes of an image that are uncertain, whether they are labels or not."""
        for box in boxes:
            threshold = self._thresholds[box.label]
            value, reason = uncertainty(box, threshold, self._settings)
            if not reason:
                continue
            row = Uncertain(
                image_id=number,
                file=file_name,
                uncertainty=round(value, 4),
                reason=reason,
                class_name=self._classes[box.label],
                score=box.score,
                threshold=threshold,
                label=box.score >= threshold,
                other_class="" if box.other == NONE else self._classes[box.other],
                other_score=box.other_score,
                left=box.left,
                top=box.top,
                right=box.right,
                bottom=box.bottom,
            )
            marks = ", ".join("?" * len(_COLUMNS))
            self._table.execute(f"INSERT INTO uncertain VALUES ({marks})", tuple(vars(row).values()))
            self.count += 1

    def rows(self, most: int | None = None) -> Iterator[Uncertain]:
        """The rows, the most uncertain ones first: all of them, or at most `most`."""
        query = "SELECT * FROM uncertain ORDER BY uncertainty DESC, rowid LIMIT ?"
        with closing(self._table.execute(query, (-1 if most is None else most,))) as found:
            for row in found:
                content = dict(zip(_COLUMNS, row, strict=True))
                yield Uncertain(**content | {"label": bool(content["label"])})

    def write(self, folder: ResultFolder) -> Path:
        """Write `review/boxes.csv` or `review/boxes.json`, as the settings say."""
        write = self._write_json if self._settings.format == "json" else self._write_csv

        def fill(file: Path) -> None:
            with file.open("w", encoding="utf-8", newline="") as stream:
                write(stream)

        return folder.write(f"review/boxes.{self._settings.format}", fill)

    def _write_csv(self, stream: IO[str]) -> None:
        table = csv.writer(stream)
        table.writerow(_COLUMNS)
        for row in self.rows():
            table.writerow([str(value).lower() if isinstance(value, bool) else value for value in asdict(row).values()])

    def _write_json(self, stream: IO[str]) -> None:
        stream.write("[")
        for place, row in enumerate(self.rows()):
            stream.write((",\n" if place else "\n") + json.dumps(asdict(row)))
        stream.write("\n]\n")


def draw_sheet(rows: Sequence[Uncertain], read: Callable[[int], Image.Image]) -> Image.Image:
    """A contact sheet of regions, each with its class, the other class and the file.

    Args:
        rows: at least one, in the order of the sheet.
        read: called with the number of an image, gives the image.

    Raises:
        ImageError: an image can no longer be read.
    """
    captions = []
    for row in rows:
        other = f"or {row.other_class} {row.other_score:.2f}" if row.other_class else f"threshold {row.threshold:g}"
        captions.append(f"{row.class_name} {row.score:.2f}\n{other}\n{Path(row.file).name}")
    colours = class_colours(row.class_name for row in rows)
    return contact_sheet((_region(read(row.image_id), row, colours[row.class_name]) for row in rows), captions)


def _region(picture: Image.Image, row: Uncertain, colour: Colour) -> Image.Image:
    """The region of a box with some of its surroundings, and the box drawn in it."""
    around = max(_LEAST_CONTEXT_PX, _CONTEXT * max(row.right - row.left, row.bottom - row.top))
    left, top = max(0, round(row.left - around)), max(0, round(row.top - around))
    right, bottom = min(picture.width, round(row.right + around)), min(picture.height, round(row.bottom + around))
    region = picture.crop((left, top, right, bottom))
    frame = [round(row.left) - left, round(row.top) - top, round(row.right) - left, round(row.bottom) - top]
    line = max(1, round(max(region.size) / 80))  # the sheet scales regions to one size: lines are equally thick there
    ImageDraw.Draw(region).rectangle(frame, outline=colour, width=line)
    return region
