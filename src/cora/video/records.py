"""Writes tracks as CSV and JSON, frame by frame, so that long videos need no more memory than short ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cora.files import whole_file
from cora.video.reader import Frame
from cora.video.smoothing import Corners
from cora.video.summary import TrackSummary
from cora.video.tracker import TrackedFrame, TrackedObject

CSV_COLUMNS = ("frame", "seconds", "track", "class", "score", "left", "top", "right", "bottom", "frame_class")
#: Further columns where boxes are smoothed: the box in this frame before smoothing.
FRAME_COLUMNS = ("frame_left", "frame_top", "frame_right", "frame_bottom")


class CsvRecords:
    """Writes a row for every object in every frame; corners in pixels.

    Args:
        file: open for writing.
        smoothed: whether boxes are smoothed; if so, those before smoothing are written, too.
    """

    def __init__(self, file: TextIO, *, smoothed: bool = False) -> None:
        self._rows, self._smoothed = csv.writer(file, lineterminator="\n"), smoothed
        self._rows.writerow((*CSV_COLUMNS, *(FRAME_COLUMNS if smoothed else ())))

    def add(self, frame: Frame, found: TrackedFrame) -> None:
        """Append the objects of a frame."""
        for entry in found.objects:
            corners = [round(corner, 2) for corner in entry.box_xyxy_px]
            alone = entry.frame_box_xyxy_px or entry.box_xyxy_px
            last = [round(corner, 2) for corner in alone] if self._smoothed else []
            what = (entry.track, entry.name, round(entry.score, 5), *corners, entry.frame_name, *last)
            self._rows.writerow((frame.index, round(frame.seconds, 6), *what))

    def finish(self, tracks: Sequence[TrackSummary], *, complete: bool) -> None:
        """Does nothing: the table has no place for tracks."""


class JsonRecords:
    """Writes one JSON object: the keys of the header, `frames` (each with its `objects`), `tracks` and `complete`.

    Boxes are x, y, width, height in pixels. Objects whose boxes are smoothed also have a `frame_bbox`, the box in this
    frame before smoothing.

    Args:
        file: open for writing.
        header: keys and values that come first, such as `video` and `classes`.
    """

    def __init__(self, file: TextIO, header: Mapping[str, Any]) -> None:
        self._file, self._separator = file, "\n"
        file.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in header.items()))
        file.write('"frames": [')

    def add(self, frame: Frame, found: TrackedFrame) -> None:
        """Append a frame."""
        entry = {
            "frame": frame.index,
            "seconds": round(frame.seconds, 6),
            "reused": found.reused,
            "objects": [_object(o) for o in found.objects],
        }
        self._file.write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def finish(self, tracks: Sequence[TrackSummary], *, complete: bool) -> None:
        """Append the tracks, and whether the source was read to its end without problems."""
        lines = ",\n".join(json.dumps(_track(track)) for track in tracks)
        self._file.write(f'\n],\n"tracks": [\n{lines}\n],\n"complete": {json.dumps(complete)}}}\n')


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 that appears under its name when the context ends without an error."""
    with (
        whole_file(path, keep_interrupted=True) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


def _object(found: TrackedObject) -> dict[str, Any]:
    alone = found.frame_box_xyxy_px
    return {
        "track": found.track,
        "class": found.name,
        "score": round(found.score, 5),
        "bbox": _xywh(found.box_xyxy_px),
        "frame_class": found.frame_name,
        **({} if alone is None else {"frame_bbox": _xywh(alone)}),
    }


def _xywh(box_xyxy_px: Corners) -> list[float]:
    left, top, right, bottom = box_xyxy_px
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]


def _track(track: TrackSummary) -> dict[str, Any]:
    return {
        "track": track.track,
        "class": track.name,
        "frames": track.frames,
        "first_seconds": round(track.first_seconds, 6),
        "last_seconds": round(track.last_seconds, 6),
        "best_score": round(track.best_score, 5),
        "frames_by_class": dict(track.names),
        "label_switches": track.switches,
        "label_switches_by_frame": track.frame_switches,
    }
