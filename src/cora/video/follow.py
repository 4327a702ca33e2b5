"""Follows objects through a whole video: tracks, records, draws and counts every frame."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cora.console import counted, error_console, stop_signal
from cora.progress import ProgressLines
from cora.video.reader import VideoReader
from cora.video.records import CsvRecords, JsonRecords
from cora.video.summary import TrackSummaries
from cora.video.tracker import ObjectTracker, draw_objects
from cora.video.window import LiveWindow
from cora.video.writer import VideoWriter

_MOST_ROWS = 30


@dataclass
class Followed:
    """The result of following objects through a video.

    Attributes:
        summaries: of all tracks.
        frames: number of frames that were done.
        reused: how many of them looked like an earlier one, whose objects were reused.
        seconds: time of the last frame.
        interrupted: whether Ctrl-C ended the run.
        closed: whether the user ended it by closing the window.
    """

    summaries: TrackSummaries = field(default_factory=TrackSummaries)
    frames: int = 0
    reused: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    closed: bool = False

    def table(self) -> Table:
        """A table of the longest tracks, in the order of their numbers."""
        table = Table("track", "class", "from s", "to s", "images", "best score", "label switches: by image, shown")
        longest = sorted(self.summaries.tracks, key=lambda track: -track.frames)[:_MOST_ROWS]
        for track in sorted(longest, key=lambda track: track.track):
            times = f"{track.first_seconds:.1f}", f"{track.last_seconds:.1f}"
            switches = f"{track.frame_switches}, {track.switches}"
            table.add_row(
                str(track.track), Text(track.name), *times, str(track.frames), f"{track.best_score:.2f}", switches
            )
        return table

    def sentence(self, score: float) -> str:
        """The number of tracks in words; `score` is the one that starts a track."""
        tracks = self.summaries.tracks
        images = counted(self.frames, "image")
        if self.reused:
            images += f" ({self.reused} like earlier ones)"
        if not tracks:
            return f"No track in {images} with a score of {score:g} or more; try a lower --score."
        by_frame, shown = self.summaries.switches_per_track()
        shortened = f", of which the {_MOST_ROWS} longest are shown" if len(tracks) > _MOST_ROWS else ""
        return (
            f"{counted(len(tracks), 'track')} in {images}{shortened}. "
            f"Label switches a track: {by_frame:.2f} by single images, {shown:.2f} shown."
        )


def follow(
    video: VideoReader,
    tracker: ObjectTracker,
    *,
    writer: VideoWriter | None = None,
    window: LiveWindow | None = None,
    records: Sequence[CsvRecords | JsonRecords] = (),
) -> Followed:
    """Track the objects of every frame; Ctrl-C or closing the window stops after the current one.

    Args:
        video: what to read.
        tracker: finds and tracks the objects.
        writer: writes the frames with boxes as a video.
        window: shows the frames with boxes.
        records: files that get the objects of every frame.
    """
    done = Followed()
    # The first Ctrl-C ends the run after the current frame, so that all files are whole; the second ends it at once.
    with stop_signal(signal.SIGINT) as stop, _progress(video.length) as advance:
        try:
            for frame in video:
                found = tracker.update(frame.pixels, frame.seconds)
                done.frames += 1
                done.reused += found.reused
                done.seconds = frame.seconds
                done.summaries.add(found.objects, frame.seconds)
                for record in records:
                    record.add(frame, found)
                if writer is not None or window is not None:
                    picture = draw_objects(Image.fromarray(frame.pixels), found.objects)
                    if writer is not None:
                        writer.write(frame, picture)
                    if window is not None:
                        done.closed = not window.show(picture)
                if writer is None:
                    video.take_sound()  # or the sound of a long video would pile up in memory
                advance(float(frame.pts * video.time_base), done.frames)
                if stop.is_set() or done.closed:
                    break
            done.interrupted = stop.is_set()
        except KeyboardInterrupt:  # the second one, while a source was silent
            done.interrupted = True
    complete = not (done.interrupted or done.closed or video.problems)
    for record in records:
        record.finish(done.summaries.tracks, complete=complete)
    return done


@contextmanager
def _progress(length: float | None) -> Iterator[Callable[[float, int], object]]:
    """A bar over the seconds of the video, or lines in a log; gives a function of (seconds, frames) that moves it."""
    console = error_console()
    if not console.is_terminal:
        # In seconds of the video, since the number of its frames is rarely known.
        lines = ProgressLines("following, seconds of the video", None if length is None else round(length))
        try:
            yield lambda seconds, _: lines.update(round(seconds))
        finally:
            lines.end()
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} s" + ("" if length is None else f" of {length:.1f} s")),
        TextColumn("{task.fields[images]} images"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("following", total=length, images=0)
        yield lambda seconds, images: bar.update(task, completed=seconds, images=images)
