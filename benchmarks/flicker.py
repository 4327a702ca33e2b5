"""What smoothing along a track does against flicker, and what it costs: boxes that tremble, boxes that lag, names.

    python benchmarks/flicker.py shared/kit/videos

Two kinds of frames: the kit's clips (CC BY 4.0, intel-iot-devkit/sample-videos), and a made video in which
examples/coffee.jpg, with the noise of a camera, stands still, drifts, starts and stops at once, and grows, so that the
box of the cup is known in every frame. The detector sees every frame once; what each `--smooth` makes of it is computed
from these detections.

Jitter is the mean second difference of a track's corners from one frame to the next, in pixels: 0 for boxes that stand
or move evenly. Lag shows in the IoU with the known box and, of the clips, which have no known boxes, in the IoU with
the box by the frame alone. Name changes are those of a track in a second, by frames alone and as shown.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from video import CLIPS, Recorded, read_frames, record, replay

import cora
from cora.boxes import pairwise_iou
from cora.video import Frame, TrackedFrame
from cora.video.smoothing import Corners
from cora.video.summary import TrackSummaries

RATE = 20
SIZE = (640, 480)
PHOTO = Path(__file__).parents[1] / "examples" / "coffee.jpg"
#: The cup in the image with its handle, by hand.
CUP = (172.0, 17.0, 411.0, 306.0)
NAMES = ("cup", "bowl", "spoon")
NOISE = 8.0  # grey levels, standard deviation
#: Phase -> frames, pixels a second to the right, growth a second. The cup is about 110 pixels wide.
PHASES = {"still": (40, 0.0, 1.0), "drift": (30, 30.0, 1.0), "dash": (20, 220.0, 1.0), "grows": (30, 0.0, 1.4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of the clips")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--score", type=float, default=0.1, help="that starts a track")
    parser.add_argument("--frames", type=int, default=100, help="at most, of each clip")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smooth", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.4], help="seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model)
    console = Console(width=140)
    frames, known = made_video()
    recorded = record(detector, NAMES, frames, arguments.score)
    table = Table("smooth, s", *(f"{phase}: jitter, px" for phase in PHASES), *(f"{phase}: IoU" for phase in PHASES))
    for smooth in arguments.smooth:
        table.add_row(f"{smooth:g}", *made_row(recorded, frames, known, smooth=smooth, score=arguments.score))
    console.print(table)
    table = Table("clip", "tracks", "smooth, s", "jitter, px", "IoU with the frame's own box", "name changes a second")
    for clip, (start, classes) in CLIPS.items():
        rate, frames = read_frames(arguments.clips / clip, start, arguments.frames)
        recorded = record(detector, classes, frames, arguments.score)
        for smooth in arguments.smooth:
            tracked, _ = replay(recorded, classes, frames, rate=rate, smooth=smooth, score=arguments.score)
            tracks = boxes_of_tracks(tracked)
            own = [iou(one.box_xyxy_px, one.frame_box_xyxy_px) for frame in tracked for one in frame.objects]
            table.add_row(
                clip, str(len(tracks)), f"{smooth:g}", f"{jitter(tracks.values()):.2f}",
                f"{np.mean(own):.3f} (least {min(own):.2f})", changes(tracked, frames),
            )  # fmt: skip
    console.print(table)
    print(f"{arguments.model}, {arguments.threads} thread(s), score {arguments.score:g}")


def made_video() -> tuple[list[Frame], list[tuple[str, Corners]]]:
    """Frames, and for each its phase and the box of the cup."""
    photo, random = Image.open(PHOTO).convert("RGB"), np.random.default_rng(0)
    frames, known = [], []
    left, top, scale = 60.0, 100.0, 0.45
    for phase, (count, speed, growth) in PHASES.items():
        for _ in range(count):
            left, scale = left + speed / RATE, scale * growth ** (1 / RATE)
            # What lies outside of the image is black.
            where = (1 / scale, 0, -left / scale, 0, 1 / scale, -top / scale)
            view = photo.transform(SIZE, Image.Transform.AFFINE, where, Image.Resampling.BICUBIC)
            pixels = np.asarray(view) + random.normal(0, NOISE, (SIZE[1], SIZE[0], 3))
            number = len(frames)
            frames.append(Frame(number, number / RATE, number, 1, pixels.clip(0, 255).astype(np.uint8)))
            x0, y0, x1, y1 = (scale * corner for corner in CUP)
            known.append((phase, (left + x0, top + y0, left + x1, top + y1)))
    return frames, known


def made_row(
    recorded: Recorded, frames: list[Frame], known: Sequence[tuple[str, Corners]], *, smooth: float, score: float
) -> Iterator[str]:
    """Jitter of the cup's boxes in every phase, then their IoU with the known ones."""
    tracked, _ = replay(recorded, NAMES, frames, rate=RATE, smooth=smooth, score=score)
    boxes: dict[str, list[tuple[int, Corners]]] = defaultdict(list)
    fits: dict[str, list[float]] = defaultdict(list)
    for number, (frame, (phase, cup)) in enumerate(zip(tracked, known, strict=True)):
        overlap, found = max(((iou(one.frame_box_xyxy_px or one.box_xyxy_px, cup), one) for one in frame.objects),
                             key=lambda one: one[0], default=(0.0, None))  # fmt: skip
        if found is not None and overlap >= 0.5:
            boxes[phase].append((number, found.box_xyxy_px))
            fits[phase].append(iou(found.box_xyxy_px, cup))
    yield from (f"{jitter([boxes[phase]]):.2f}" for phase in PHASES)
    yield from (f"{np.mean(fits[phase]):.3f}" for phase in PHASES)


def boxes_of_tracks(tracked: Sequence[TrackedFrame]) -> dict[int, list[tuple[int, Corners]]]:
    """Track -> (number of the frame, box)."""
    tracks: dict[int, list[tuple[int, Corners]]] = defaultdict(list)
    for number, frame in enumerate(tracked):
        for one in frame.objects:
            tracks[one.track].append((number, one.box_xyxy_px))
    return tracks


def jitter(tracks: object) -> float:
    """Mean absolute second difference of corners, in pixels, over three frames that follow each other."""
    seconds: list[NDArray[np.float64]] = []
    for track in tracks:  # type: ignore[attr-defined]
        for (first, a), (_, b), (last, c) in zip(track, track[1:], track[2:], strict=False):
            if last - first == 2:
                seconds.append(np.abs(np.array(a) - 2 * np.array(b) + np.array(c)))
    return float(np.mean(seconds)) if seconds else float("nan")


def iou(one: Corners, other: Corners | None) -> float:
    """Overlap of two boxes; 1 with None."""
    return 1.0 if other is None else float(pairwise_iou(torch.tensor([one]), torch.tensor([other]))[0, 0])


def changes(tracked: Sequence[TrackedFrame], frames: Sequence[Frame]) -> str:
    """Changes of name a track and second: by frames alone, and as shown."""
    summaries = TrackSummaries()
    for frame, found in zip(frames, tracked, strict=True):
        summaries.add(found.objects, frame.seconds)
    seconds = sum(track.last_seconds - track.first_seconds for track in summaries.tracks)
    by_frame = sum(track.frame_switches for track in summaries.tracks) / seconds
    return f"{by_frame:.2f} by frames, {sum(track.switches for track in summaries.tracks) / seconds:.2f} shown"


if __name__ == "__main__":
    main()
