"""`cora video`: follows objects through a video; writes a video with boxes, CSV and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.apps import kinds
from cora.apps.argument_types import above_zero, grey_levels, positive, zero_or_more
from cora.apps.command import Command, check_output
from cora.apps.model_options import (
    NamesOptions,
    TileOptions,
    class_agnostic_option,
    device_option,
    model_option,
    score_option,
    text_model_option,
)
from cora.apps.options import argument, group, option, switch
from cora.errors import CoraError

if TYPE_CHECKING:
    from cora.video import ObjectTracker, VideoReader
    from cora.video.follow import Followed

_RESULTS, _PART = "results", "what is looked at"


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of `cora video`."""

    source: str = argument(
        metavar="SOURCE",
        help="video file, number of a camera (0, 1, ...) or camera:NAME, or stream (rtsp://..., http://...)",
    )
    names: NamesOptions = group(NamesOptions, where="video")
    model: str = model_option()
    text_model: str | None = text_model_option()
    score: float | None = score_option("that starts a track")
    class_agnostic: bool | None = class_agnostic_option(names_given=False)
    output: Path | None = option(
        section=_RESULTS,
        writes=kinds.VIDEO,
        help="video to write: .mp4, .mov, .mkv, .webm or .gif (default: cora-output/NAME.mp4)",
    )
    no_video: bool = switch(section=_RESULTS, help="write no video")
    no_sound: bool = switch(section=_RESULTS, help="leave the sound out")
    csv: Path | None = option(
        section=_RESULTS, writes=kinds.TRACK_TABLE, help="also write a row for every object in every frame"
    )
    json: Path | None = option(section=_RESULTS, writes=kinds.TRACKS, help="also write frames, objects and tracks")
    show: bool = switch(section=_RESULTS, help="show the frames in a window; Escape or Q ends it")
    every: int = option(section=_PART, type=positive, default=1, help="only every Nth frame; the others are left out")
    start: float = option(
        section=_PART, type=zero_or_more, default=0.0, metavar="S", help="begin S seconds into the file"
    )
    seconds: float | None = option(
        section=_PART, type=above_zero, metavar="S", help="stop S seconds later (default: at the end)"
    )
    reuse: float = option(
        section=_PART,
        type=grey_levels,
        default=0.0,
        metavar="LEVELS",
        help="keep the last detections while no part of the frame changes by more than this many of 255 grey levels "
        "(default: 0, detect in every frame)",
    )
    tiling: TileOptions = group(TileOptions)
    smooth: float = option(
        type=zero_or_more,
        default=0.2,
        metavar="S",
        help="average the box of an object that stands still over S seconds, less for one that moves; 0 leaves boxes "
        "as the detector gives them (default: %(default)s)",
    )
    device: str = device_option()


def run(options: VideoOptions) -> int:
    """Detect, track and write; everything that can be checked is checked before the model is loaded.

    Returns:
        Exit code: 0, or 1 if some of the video could not be read.

    Raises:
        CoraError: bad input.
        KeyboardInterrupt: Ctrl-C, after all files were finished.
    """
    from contextlib import ExitStack

    from cora.apps.open_model import open_detector, read_wanted, tell_wanted
    from cora.predictor.adapt import set_short_side
    from cora.video import ObjectTracker, VideoReader, VideoWriter
    from cora.video.follow import follow
    from cora.video.records import CsvRecords, JsonRecords, text_file
    from cora.video.window import LiveWindow
    from cora.video.writer import check_video_path

    wanted, tiles = read_wanted(options.names, options.model), options.tiling.read()
    if options.output is not None:
        check_video_path(options.output)
    with ExitStack() as stack:
        opened = stack.enter_context
        video = opened(VideoReader(options.source, start=options.start, seconds=options.seconds, every=options.every))
        output = _output(options, video)
        window = opened(LiveWindow(f"cora: {options.source}")) if options.show else None
        detector = open_detector(options.model, options.device, text_model=options.text_model)
        set_short_side(detector, options.tiling.short_side)
        wanted.sentences.apply(detector.vocabulary_encoder)
        tracker = ObjectTracker(
            detector,
            wanted.classes,
            score=options.score,
            rate=float(video.rate / options.every),
            reuse=options.reuse,
            distractors=wanted.distractors,
            exemplars=wanted.exemplars or None,
            tiles=tiles,
            class_weights=wanted.class_weights,
            class_agnostic=options.class_agnostic,
            smooth=options.smooth,
        )
        writer = None
        if output is not None:
            writer = opened(VideoWriter(output, like=video, sound=not options.no_sound))
        records: list[CsvRecords | JsonRecords] = []
        if options.csv is not None:
            records.append(CsvRecords(opened(text_file(options.csv)), smoothed=options.smooth > 0))
        if options.json is not None:
            records.append(JsonRecords(opened(text_file(options.json)), _header(options, video, tracker)))
        tell_wanted(detector, tracker.vocabulary, wanted, score=tracker.score, class_agnostic=options.class_agnostic)
        done = follow(video, tracker, writer=writer, window=window, records=records)
    return _report(options, video, done, output, score=tracker.score)


def _output(options: VideoOptions, video: VideoReader) -> Path | None:
    """The video to write, if any. Its default name depends on the opened video, so that it is checked here."""
    from cora.video.writer import can_hold

    if options.no_video:
        if options.output is not None:
            raise CoraError("expected --output or --no-video, got both; leave one out")
        return None
    path = options.output
    if path is None:
        path = Path("cora-output") / f"{video.source.stem}.mp4"
        sound = None if options.no_sound else video.sound
        path = path if sound is None or can_hold(path, sound) else path.with_suffix(".mkv")
    sources = [Path(options.source), *filter(None, (options.csv, options.json))]
    check_output(path, kinds.VIDEO, sources, flag="--output")
    return path


def _header(options: VideoOptions, video: VideoReader, tracker: ObjectTracker) -> dict[str, Any]:
    import sys

    height, width = video.size
    return {
        "command": ["cora", *sys.argv[1:]],
        "video": {
            "source": options.source,
            "width": width,
            "height": height,
            "rate": float(video.rate),
            "start": options.start,
            "every": options.every,
        },
        "classes": list(tracker.class_names),
        "model": options.model,
        "score": tracker.score,
        "reuse": options.reuse,
        "class_agnostic": tracker.class_agnostic,
        "smooth": options.smooth,
    }


def _report(options: VideoOptions, video: VideoReader, done: Followed, output: Path | None, *, score: float) -> int:
    from cora.console import error_console, output_console, report, say

    written = [str(path) for path in (output, options.csv, options.json) if path is not None and done.frames]
    if done.interrupted:
        kept = f"; what was done is in {', '.join(written)}" if written else ""
        raise KeyboardInterrupt(f"after {done.seconds:.1f} s of the video{kept}")
    console = output_console()
    if done.summaries.tracks:
        console.print(done.table())
    say(console, done.sentence(score) + (f" Written: {', '.join(written)}." if written else ""))
    for problem in video.problems:
        report(error_console(), f"{options.source}: {problem}", "warning")
    return 1 if video.problems else 0


COMMAND = Command(
    name="video",
    options=VideoOptions,
    run=run,
    help="follow named objects through a video",
    description="Follow named objects through a file, camera or stream; writes a video with boxes, and tables.",
    epilog="Exit code: 0 done; 1 some of the video could not be read; 2 bad input; 130 Ctrl-C, files finished.",
)
