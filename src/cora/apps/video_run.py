"""`cora video`: a video in; tracks, an annotated video, CSV and JSON out."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cora.apps import kinds
from cora.apps.class_weights import weights_of_names
from cora.apps.command import check_output
from cora.apps.competing import tell_distractors
from cora.apps.exemplar_options import gather
from cora.apps.looked_for import tell_names, usual_names, wanted_classes
from cora.apps.model_options import read_distractors
from cora.apps.open_model import open_detector
from cora.apps.text_options import TextOptions, read_text_options
from cora.apps.tile_options import read_tiles, set_short_side
from cora.console import error_console, output_console, report, say
from cora.errors import CoraError
from cora.predictor import Exemplars, Tiles
from cora.progress import ProgressLines
from cora.regions import ClassPrompts, other_prompts
from cora.video import ObjectTracker, VideoReader, VideoWriter, draw_objects
from cora.video.records import CsvRecords, JsonRecords, text_file
from cora.video.summary import TrackSummaries
from cora.video.window import LiveWindow
from cora.video.writer import can_hold, check_video_path

_FOLDER = Path("cora-output")
_MOST_ROWS = 30


@dataclass(frozen=True)
class _Wanted:
    """What is looked for, and how; read before the model is loaded."""

    classes: ClassPrompts | None
    exemplars: Exemplars
    distractors: tuple[str, ...] | None
    text: TextOptions
    tiles: Tiles | None
    class_weights: Mapping[str, float]


@dataclass
class _Stop:
    """Whether the run is to end after the present image."""

    interrupted: bool = False
    closed: bool = False

    def __bool__(self) -> bool:
        return self.interrupted or self.closed


@dataclass
class _Results:
    """Where results go, and what has been done."""

    writer: VideoWriter | None = None
    records: list[CsvRecords | JsonRecords] = field(default_factory=list)
    window: LiveWindow | None = None
    summaries: TrackSummaries = field(default_factory=TrackSummaries)
    frames: int = 0
    reused: int = 0
    seconds: float = 0.0
    stop: _Stop = field(default_factory=_Stop)


def follow(arguments: argparse.Namespace) -> int:
    """Detect, track and write; everything that can be checked is checked before the model is loaded.

    Args:
        arguments: as `video.py` reads them.

    Returns:
        Exit code: 0, or 1 if some of the video could not be read.

    Raises:
        CoraError: bad input.
        KeyboardInterrupt: Ctrl-C, after all files were finished.
    """
    wanted = _wanted(arguments)
    if arguments.output is not None:
        check_video_path(arguments.output)
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoReader(arguments.source, start=arguments.start, seconds=arguments.seconds, every=arguments.every)
        )
        output = _output(arguments, video)
        _check_targets(arguments.source, output, arguments.csv, arguments.json)
        results = _Results()
        if arguments.show:
            results.window = stack.enter_context(LiveWindow(f"cora: {arguments.source}"))
        tracker = _tracker(arguments, wanted, rate=float(video.rate / arguments.every))
        if output is not None:
            results.writer = stack.enter_context(VideoWriter(output, like=video, sound=not arguments.no_sound))
        if arguments.csv is not None:
            results.records.append(
                CsvRecords(stack.enter_context(text_file(arguments.csv)), smoothed=arguments.smooth > 0)
            )
        if arguments.json is not None:
            file = stack.enter_context(text_file(arguments.json))
            results.records.append(JsonRecords(file, _header(arguments, video, tracker)))
        _follow(video, tracker, results)
    return _report(arguments, video, results, output, score=tracker.score)


def _wanted(arguments: argparse.Namespace) -> _Wanted:
    exemplars = gather(arguments.exemplar)
    classes = wanted_classes(arguments.classes, exemplars)
    named = usual_names(arguments.model) if classes is None else tuple(classes)
    return _Wanted(
        classes=classes,
        exemplars=exemplars,
        distractors=read_distractors(arguments.distractors),
        text=read_text_options(arguments.templates, arguments.descriptions, named),
        tiles=read_tiles(arguments),
        class_weights=weights_of_names(arguments.class_weights, (*named, *exemplars)),
    )


def _tracker(arguments: argparse.Namespace, wanted: _Wanted, *, rate: float) -> ObjectTracker:
    detector = open_detector(arguments.model, arguments.device, text_model=arguments.text_model)
    set_short_side(detector, arguments.short_side)
    wanted.text.apply(detector.vocabulary_encoder)
    tracker = ObjectTracker(
        detector,
        wanted.classes,
        score=arguments.score,
        rate=rate,
        reuse=arguments.reuse,
        distractors=wanted.distractors,
        exemplars=wanted.exemplars or None,
        tiles=wanted.tiles,
        class_weights=wanted.class_weights,
        class_agnostic=arguments.class_agnostic,
        smooth=arguments.smooth,
    )
    tell_names(
        detector,
        tracker.vocabulary,
        classes=wanted.classes,
        score=tracker.score,
        class_agnostic=arguments.class_agnostic,
    )
    tell_distractors(detector, (*tracker.class_names, *other_prompts(wanted.classes or {})), wanted.distractors)
    return tracker


def _follow(video: VideoReader, tracker: ObjectTracker, results: _Results) -> None:
    stop = results.stop
    with _stopping(stop), _progress(video.length) as advance:
        try:
            for frame in video:
                found = tracker.update(frame.pixels, frame.seconds)
                results.frames += 1
                results.reused += found.reused
                results.seconds = frame.seconds
                results.summaries.add(found.objects, frame.seconds)
                for records in results.records:
                    records.add(frame, found)
                if results.writer is not None or results.window is not None:
                    picture = draw_objects(Image.fromarray(frame.pixels), found.objects)
                    if results.writer is not None:
                        results.writer.write(frame, picture)
                    if results.window is not None:
                        stop.closed = not results.window.show(picture)
                advance(float(frame.pts * video.time_base), results.frames)
                if stop:
                    break
        except KeyboardInterrupt:  # the second one, from a source that gives no more images
            stop.interrupted = True
    for records in results.records:
        records.finish(results.summaries.tracks, complete=not stop and not video.problems)


@contextmanager
def _stopping(stop: _Stop) -> Iterator[None]:
    """The first Ctrl-C ends the run after the present image, so that no file is torn; the second ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(length: float | None) -> Iterator[Any]:
    """A bar over the seconds of the video, or lines in a log; gives a function of (seconds, images)."""
    console = error_console()
    if not console.is_terminal:
        # In whole seconds: how many images a video has is rarely known.
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
        yield lambda seconds, pictures: bar.update(task, completed=seconds, images=pictures)


def _output(arguments: argparse.Namespace, video: VideoReader) -> Path | None:
    if arguments.no_video:
        if arguments.output is not None:
            raise CoraError("expected --output or --no-video, got both; leave one out")
        return None
    if arguments.output is not None:
        return Path(arguments.output)
    path = _FOLDER / f"{video.source.stem}.mp4"
    sound = None if arguments.no_sound else video.sound
    return path if sound is None or can_hold(path, sound) else path.with_suffix(".mkv")


def _check_targets(source: str, *targets: Path | None) -> None:
    video, *tables = targets
    if video is not None:  # the default name is known only now
        check_output(video, kinds.VIDEO, [Path(source), *filter(None, tables)], flag="--output")


def _header(arguments: argparse.Namespace, video: VideoReader, tracker: ObjectTracker) -> dict[str, Any]:
    height, width = video.size
    return {
        "command": ["cora", *sys.argv[1:]],
        "video": {
            "source": arguments.source,
            "width": width,
            "height": height,
            "rate": float(video.rate),
            "start": arguments.start,
            "every": arguments.every,
        },
        "classes": list(tracker.class_names),
        "model": str(arguments.model),
        "score": tracker.score,
        "reuse": arguments.reuse,
        "class_agnostic": tracker.class_agnostic,
        "smooth": arguments.smooth,
    }


def _report(
    arguments: argparse.Namespace, video: VideoReader, results: _Results, output: Path | None, *, score: float
) -> int:
    written = [str(path) for path in (output, arguments.csv, arguments.json) if path is not None and results.frames]
    if results.stop.interrupted:
        kept = f"; what was done is in {', '.join(written)}" if written else ""
        raise KeyboardInterrupt(f"after {results.seconds:.1f} s of the video{kept}")
    console = output_console()
    if results.summaries.tracks:
        console.print(_table(results.summaries))
    say(console, _sentence(results, score, written))
    for problem in video.problems:
        report(error_console(), f"{arguments.source}: {problem}", "warning")
    return 1 if video.problems else 0


def _table(summaries: TrackSummaries) -> Table:
    """The tracks that are longest, in the order of their numbers."""
    table = Table("track", "class", "from s", "to s", "images", "best score", "label switches: by image, shown")
    longest = sorted(summaries.tracks, key=lambda track: -track.frames)[:_MOST_ROWS]
    for track in sorted(longest, key=lambda track: track.track):
        times = f"{track.first_seconds:.1f}", f"{track.last_seconds:.1f}"
        switches = f"{track.frame_switches}, {track.switches}"
        table.add_row(
            str(track.track), Text(track.name), *times, str(track.frames), f"{track.best_score:.2f}", switches
        )
    return table


def _sentence(results: _Results, score: float, written: list[str]) -> str:
    tracks = results.summaries.tracks
    pictures = f"{results.frames} image{'s' * (results.frames != 1)}"
    if results.reused:
        pictures += f" ({results.reused} like earlier ones)"
    if not tracks:
        text = f"No track in {pictures} with a score of {score:g} or more; try a lower --score."
    else:
        by_frame, shown = results.summaries.switches_per_track()
        shortened = f", of which the {_MOST_ROWS} longest are shown" if len(tracks) > _MOST_ROWS else ""
        text = (
            f"{len(tracks)} track{'s' * (len(tracks) != 1)} in {pictures}{shortened}. "
            f"Label switches a track: {by_frame:.2f} by single images, {shown:.2f} shown."
        )
    return f"{text} Written: {', '.join(written)}." if written else text
