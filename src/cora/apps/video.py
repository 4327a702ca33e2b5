"""`cora video`: its arguments; `video_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, zero_or_more
from cora.apps.class_weights import add_class_weights_option
from cora.apps.command import set_command
from cora.apps.exemplar_options import add_exemplar_option
from cora.apps.model_options import (
    add_class_agnostic_option,
    add_classes_option,
    add_device_option,
    add_distractors_option,
    add_model_option,
    add_score_option,
    add_text_model_option,
)
from cora.apps.text_options import add_text_options
from cora.apps.tile_options import add_tile_options


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `video` to the commands."""
    parser = commands.add_parser(
        "video",
        help="follow named objects through a video",
        description="Follow named objects through a file, camera or stream; writes a video with boxes, and tables.",
        epilog="Exit code: 0 done; 1 some of the video could not be read; 2 bad input; 130 Ctrl-C, files finished.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.VIDEO, csv=kinds.TRACK_TABLE, json=kinds.TRACKS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora video`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, number of a camera (0, 1, ...) or camera:NAME, or stream (rtsp://..., http://...)",
    )
    add_classes_option(parser, optional=True)
    add_exemplar_option(parser)
    add_distractors_option(parser, "video")
    add_text_options(parser)
    add_class_weights_option(parser)
    add_model_option(parser)
    add_text_model_option(parser)
    add_score_option(parser, "that starts a track")
    add_class_agnostic_option(parser, names_given=False)
    _add_outputs(parser)
    part = parser.add_argument_group("what is looked at")
    part.add_argument(
        "--every", type=positive, default=1, metavar="N", help="only each Nth image; the others are left out"
    )
    part.add_argument("--start", type=zero_or_more, default=0.0, metavar="S", help="begin S seconds into the file")
    part.add_argument("--seconds", type=above_zero, metavar="S", help="stop S seconds later (default: at the end)")
    part.add_argument(
        "--reuse",
        type=_grey_levels,
        default=0.0,
        metavar="LEVELS",
        help="where no part of an image changed by more than so many of 255 grey levels, keep what was found before "
        "(default: 0, look at every image)",
    )
    add_tile_options(parser)
    parser.add_argument(
        "--smooth",
        type=zero_or_more,
        default=0.2,
        metavar="S",
        help="average the box of an object that stands still over S seconds, less for one that moves; 0 leaves boxes "
        "as the detector gives them (default: %(default)s)",
    )
    add_device_option(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="video to write: .mp4, .mov, .mkv, .webm or .gif (default: cora-output/NAME.mp4)",
    )
    results.add_argument("--no-video", action="store_true", help="write no video")
    results.add_argument("--no-sound", action="store_true", help="leave the sound out")
    results.add_argument("--csv", type=Path, metavar="FILE", help="also write a row for every object in every image")
    results.add_argument("--json", type=Path, metavar="FILE", help="also write images, objects and tracks")
    results.add_argument("--show", action="store_true", help="show the images in a window; Escape or Q ends it")


def _grey_levels(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f"expected grey levels in 0..255, got {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Follow named objects through a video; returns the exit code."""
    from cora.apps.video_run import follow

    return follow(arguments)
