"""Boxes that a person should look at, the most uncertain ones first."""

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

#: Surroundings of a box on the sheet, as a share of its longer side, and pixels at least.
_CONTEXT, _LEAST_CONTEXT_PX = 0.4, 12


@dataclass(frozen=True)
class Uncertain:
    """A line of the review list.

    Attributes:
        image_id: number of the image.
        file: its name.
        uncertainty: 1 where the decision might as well be the other, 0 at the ends of what is asked for.
        reason: "score", "margin" or "score and margin".
        class_name, score: of the box.
        threshold: of its class; a box with at least this score is a label.
        label: whether it is one.
        other_class, other_score: the best other class of the same object; "" and 0 where none was seen.
        left, top, right, bottom: pixels of the upright image.
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


#: Column -> kind, for SQLite.
_COLUMNS = [field.name for field in fields(Uncertain)]


def uncertainty(box: Box, threshold: float, settings: ReviewSettings) -> tuple[float, str]:
    """How uncertain a box is, 0..1, and why; ("", 0) with no reason if nobody needs to look at it.

    By score: 1 at the threshold of the class, falling to 0 at the farther end of low..high. By margin: 1 where both
    classes have the same score, falling to 0 at the margin asked for. The greater of the two counts.
    """
    reasons: dict[str, float] = {}
    if settings.low is not None and settings.high is not None and settings.low <= box.score < settings.high:
        reach = max(abs(settings.low - threshold), abs(settings.high - threshold))
        reasons["score"] = 1 - abs(box.score - threshold) / reach
    if box.score >= threshold and box.other != NONE and box.margin < settings.margin:
        reasons["margin"] = 1 - box.margin / settings.margin
    return max(reasons.values(), default=0.0), " and ".join(reasons)


class ReviewList:
    """Collects uncertain boxes and sorts them, in a temporary database on disk instead of in memory.

    Args:
        classes: names that labels are indices of.
        thresholds: of each class.
        settings: what is uncertain.
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
        """Look at the boxes of an image, those that are no labels too."""
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
        """The most uncertain ones first, all of them unless `most` is given."""
        query = "SELECT * FROM uncertain ORDER BY uncertainty DESC, rowid LIMIT ?"
        with closing(self._table.execute(query, (-1 if most is None else most,))) as found:
            for row in found:
                content = dict(zip(_COLUMNS, row, strict=True))
                yield Uncertain(**content | {"label": bool(content["label"])})

    def write(self, folder: ResultFolder) -> Path:
        """`review/boxes.csv` or `.json`, as the settings say."""
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
        rows: regions, in the order of the sheet; at least one.
        read: number of an image -> image.

    Raises:
        ImageError: an image cannot be read any more.
    """
    captions = []
    for row in rows:
        other = f"or {row.other_class} {row.other_score:.2f}" if row.other_class else f"threshold {row.threshold:g}"
        captions.append(f"{row.class_name} {row.score:.2f}\n{other}\n{Path(row.file).name}")
    colours = class_colours(row.class_name for row in rows)
    return contact_sheet((_region(read(row.image_id), row, colours[row.class_name]) for row in rows), captions)


def _region(picture: Image.Image, row: Uncertain, colour: Colour) -> Image.Image:
    """The box with its surroundings, framed."""
    around = max(_LEAST_CONTEXT_PX, _CONTEXT * max(row.right - row.left, row.bottom - row.top))
    left, top = max(0, round(row.left - around)), max(0, round(row.top - around))
    right, bottom = min(picture.width, round(row.right + around)), min(picture.height, round(row.bottom + around))
    region = picture.crop((left, top, right, bottom))
    frame = [round(row.left) - left, round(row.top) - top, round(row.right) - left, round(row.bottom) - top]
    line = max(1, round(max(region.size) / 80))  # as thick on the sheet, however small the region
    ImageDraw.Draw(region).rectangle(frame, outline=colour, width=line)
    return region
