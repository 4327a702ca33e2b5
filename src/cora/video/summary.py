"""Summarizes each track: its class, when it was seen, and how often its class changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cora.video.tracker import TrackedObject


@dataclass
class TrackSummary:
    """The summary of one track.

    Attributes:
        track: its number.
        first_seconds: time of its first frame.
        last_seconds: time of its last frame.
        frames: number of its frames.
        best_score: the highest score in any frame, 0..1.
        names: class name -> number of frames in which the track had this class.
        switches: how often its class changed from one of its frames to the next.
        frame_switches: how often the best class of single frames changed.
    """

    track: int
    first_seconds: float
    last_seconds: float
    frames: int = 0
    best_score: float = 0.0
    names: Counter[str] = field(default_factory=Counter)
    switches: int = 0
    frame_switches: int = 0
    _last: TrackedObject | None = None

    @property
    def name(self) -> str:
        """The class that the track had in most frames."""
        return self.names.most_common(1)[0][0]

    def add(self, found: TrackedObject, seconds: float) -> None:
        """Add the object of one frame."""
        if self._last is not None:
            self.switches += found.name != self._last.name
            self.frame_switches += found.frame_name != self._last.frame_name
        self._last = found
        self.last_seconds = seconds
        self.frames += 1
        self.best_score = max(self.best_score, found.score)
        self.names[found.name] += 1


class TrackSummaries:
    """Summaries of all tracks of a video, by number."""

    def __init__(self) -> None:
        self._tracks: dict[int, TrackSummary] = {}

    def add(self, objects: Iterable[TrackedObject], seconds: float) -> None:
        """Add the objects of one frame."""
        for found in objects:
            track = self._tracks.setdefault(found.track, TrackSummary(found.track, seconds, seconds))
            track.add(found, seconds)

    @property
    def tracks(self) -> tuple[TrackSummary, ...]:
        """All summaries, in the order of the tracks' numbers."""
        return tuple(self._tracks[number] for number in sorted(self._tracks))

    def switches_per_track(self) -> tuple[float, float]:
        """Mean number of class changes of a track: of single frames, and of the track; 0 without tracks."""
        count = max(1, len(self._tracks))
        tracks = self._tracks.values()
        return sum(t.frame_switches for t in tracks) / count, sum(t.switches for t in tracks) / count
