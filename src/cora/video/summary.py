"""What is left of each track at the end: its class, when it was there, and how often its label changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cora.video.tracker import TrackedObject


@dataclass
class TrackSummary:
    """One track.

    Attributes:
        track: its number.
        first_seconds, last_seconds: times of the first and last frame that it is in.
        frames: number of frames that it is in.
        best_score: 0..1.
        names: class -> frames in which the track bore that name.
        switches: how often its name changed from one frame to the next.
        frame_switches: the same for names by single frames.
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
        """The class that the track bore in most frames."""
        return self.names.most_common(1)[0][0]

    def add(self, found: TrackedObject, seconds: float) -> None:
        """Count a frame."""
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
        """Count the objects of a frame."""
        for found in objects:
            track = self._tracks.setdefault(found.track, TrackSummary(found.track, seconds, seconds))
            track.add(found, seconds)

    @property
    def tracks(self) -> tuple[TrackSummary, ...]:
        """In order of their numbers."""
        return tuple(self._tracks[number] for number in sorted(self._tracks))

    def switches_per_track(self) -> tuple[float, float]:
        """Mean number of label changes of a track: by single frames, and by its history; 0 without tracks."""
        count = max(1, len(self._tracks))
        tracks = self._tracks.values()
        return sum(t.frame_switches for t in tracks) / count, sum(t.switches for t in tracks) / count
