"""What memory does for labels in a video, and what reuse between frames saves and costs.

    python benchmarks/video.py shared/kit/videos

takes the kit's clips (people, cars, bottles; CC BY 4.0, intel-iot-devkit/sample-videos). Every frame is looked at once,
and timed; what the tracker makes of it with and without reuse is then computed from these results, so that all rows are
of the same detections. Seconds with reuse are those of the frames that were looked at, and of everything else as run.

Prints three tables: label switches (in brackets the 95 % interval of a bootstrap over tracks), reuse, and encoding
names once. The clips have no ground truth: agreement is the share of objects (F1; same name, IoU 0.5) that are the same
as without reuse, in brackets with the 95 % interval of a bootstrap over blocks of ten images, since neighbours are
alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import cora
from cora.boxes import pairwise_iou
from cora.evaluation.bootstrap import FloatArray, estimate, resample_counts
from cora.structures import Detections
from cora.video import Frame, ObjectTracker, TrackedFrame, VideoReader
from cora.video.summary import TrackSummaries

#: Clip -> second to start at, names. Names are such as can be confused, as people's own lists are.
CLIPS = {
    "car-detection.mp4": (12.0, ("car", "truck", "bus", "motorcycle", "bicycle", "person")),
    "bottle-detection.mp4": (4.0, ("bottle", "can", "cup", "vase", "jar", "box")),
    "person-bicycle-car-detection.gif": (0.0, ("person", "bicycle", "car", "truck", "bus", "motorcycle")),
    "store-aisle-detection.gif": (0.0, ("person", "bowl", "cup", "plate", "vase", "shelf")),
}
THRESHOLDS = (2.0, 4.0, 8.0, 16.0)
BLOCK = 10


@dataclass
class Recorded:
    """In place of a detector: gives what the real one found in the present frame."""

    vocabulary_: Any
    found: list[Detections]
    seconds: list[float]
    frame: int = 0
    spent: float = 0.0

    def vocabulary(self, classes: object, **options: object) -> Any:
        return self.vocabulary_

    def score_of(self, asked: float, *, built_in: bool) -> float:
        return asked

    def predict(self, picture: object, vocabulary: object, **options: object) -> Detections:
        self.spent += self.seconds[self.frame]
        return self.found[self.frame]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of the clips")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--score", type=float, default=0.03)
    parser.add_argument("--frames", type=int, default=100, help="at most, of each clip")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half-lives", type=float, nargs="+", default=[2.0], help="of the history, in seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model)
    labels = Table(
        "clip", "frames", "tracks", "switches a track: by frame", *(f"half-life {h:g} s" for h in arguments.half_lives)
    )
    reuse = Table("clip", "levels", "looked at", "s a frame", "times as fast", "agreement", "tracks")
    names = Table("clip", "names", "ms to encode them", "ms a frame without that", "times as slow, encoded every frame")
    for clip, (start, classes) in CLIPS.items():
        rate, frames = read_frames(arguments.clips / clip, start, arguments.frames)
        encode = _time_names(detector, classes)
        recorded = record(detector, classes, frames, arguments.score)
        options = {"score": arguments.score, "rate": rate}
        runs = {half: replay(recorded, classes, frames, half_life=half, **options) for half in arguments.half_lives}
        _add_labels(labels, clip, frames, runs)
        base = runs[arguments.half_lives[0]]
        _add_reuse(reuse, clip, 0.0, base, base)
        for threshold in THRESHOLDS:
            run = replay(recorded, classes, frames, reuse=threshold, half_life=arguments.half_lives[0], **options)
            _add_reuse(reuse, clip, threshold, base, run)
        each = base[1] / len(frames)
        names.add_row(
            clip, str(len(classes)), f"{1000 * encode:.0f}", f"{1000 * each:.0f}", f"{(each + encode) / each:.2f}"
        )
    console = Console(width=140)
    for table in (labels, reuse, names):
        console.print(table)
    print(f"{arguments.model}, {arguments.threads} thread(s), score {arguments.score:g}")


def read_frames(path: Path, start: float, count: int) -> tuple[float, list[Frame]]:
    with VideoReader(path, start=start) as video:
        return float(video.rate), [frame for frame, _ in zip(video, range(count), strict=False)]


def record(detector: Any, classes: tuple[str, ...], frames: list[Frame], score: float) -> Recorded:
    vocabulary = detector.vocabulary(classes)
    found, seconds = [], []
    for frame in frames:
        began = time.perf_counter()
        found.append(detector.predict(frame.pixels, vocabulary, score=score / 2, max_detections=300))
        seconds.append(time.perf_counter() - began)
    return Recorded(vocabulary, found, seconds)


def replay(
    recorded: Recorded, classes: tuple[str, ...], frames: list[Frame], **options: Any
) -> tuple[list[TrackedFrame], float]:
    """What a tracker makes of the frames, and how long the whole would have taken."""
    tracker = ObjectTracker(recorded, classes, **options)  # type: ignore[arg-type]
    recorded.spent = 0.0
    began = time.perf_counter()
    tracked = []
    for number, frame in enumerate(frames):
        recorded.frame = number
        tracked.append(tracker.update(Image.fromarray(frame.pixels), frame.seconds))
    return tracked, recorded.spent + time.perf_counter() - began


def _time_names(detector: Any, classes: tuple[str, ...]) -> float:
    """Seconds to encode the names themselves, without any cache; the least of three."""
    encoder = detector.vocabulary_encoder
    folder, encoder.cache_dir = encoder.cache_dir, None
    times = []
    for _ in range(3):
        encoder.forget()
        began = time.perf_counter()
        encoder.encode(classes)
        times.append(time.perf_counter() - began)
    encoder.cache_dir = folder
    return min(times)


def _add_labels(table: Table, clip: str, frames: list[Frame], runs: dict[float, Any]) -> None:
    switches, count, by_frame = [], 0, ""
    for tracked, _ in runs.values():
        summaries = TrackSummaries()
        for frame, found in zip(frames, tracked, strict=True):
            summaries.add(found.objects, frame.seconds)
        tracks = list(summaries.tracks)
        count = len(tracks)
        by_frame = _per_track([track.frame_switches for track in tracks])
        switches.append(_per_track([track.switches for track in tracks]))
    table.add_row(clip, str(len(frames)), str(count), by_frame, *switches)


def _per_track(switches: list[int]) -> str:
    """Mean over tracks with the 95 % interval of a bootstrap over them."""
    if not switches:
        return "-"
    values = np.array(switches, dtype=float)
    known = estimate(float(values.mean()), resample_counts(len(values)) @ values / len(values))
    return f"{known.value:.2f} ({known.low:.2f}-{known.high:.2f})"


def _add_reuse(
    table: Table,
    clip: str,
    threshold: float,
    base: tuple[list[TrackedFrame], float],
    run: tuple[list[TrackedFrame], float],
) -> None:
    frames = len(run[0])
    looked = sum(not found.reused for found in run[0])
    tracks = len({found.track for frame in run[0] for found in frame.objects})
    table.add_row(
        clip,
        f"{threshold:g}",
        f"{looked} of {frames}",
        f"{run[1] / frames:.3f}",
        f"{base[1] / run[1]:.2f}",
        _agreement(base[0], run[0]),
        str(tracks),
    )


def _agreement(first: list[TrackedFrame], second: list[TrackedFrame]) -> str:
    """F1 of the objects of two runs over the same frames in percent, with its interval."""
    counts = np.array([same_objects(one, other) for one, other in zip(first, second, strict=True)], dtype=float)
    blocks = np.add.reduceat(counts, range(0, len(counts), BLOCK))
    drawn = resample_counts(len(blocks)) @ blocks
    known = estimate(float(_f1(counts.sum(axis=0))), _f1(drawn))
    if known.value is None or known.low is None or known.high is None:
        return "-"
    return f"{100 * known.value:.1f} % ({100 * known.low:.1f}-{100 * known.high:.1f})"


def _f1(counts: FloatArray) -> FloatArray:
    """Of [..., 2]: objects that are the same, and the objects of both runs; NaN where there are none."""
    same, total = counts[..., 0], counts[..., 1]
    return np.divide(2 * same, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def same_objects(one: TrackedFrame, other: TrackedFrame) -> tuple[int, int]:
    """Objects of a frame that two runs agree on (same name, IoU of 0.5 or more), and the objects of both together."""
    left, same = list(other.objects), 0
    for found in one.objects:
        named = [o for o in left if o.name == found.name]
        if not named:
            continue
        boxes = torch.tensor([o.box_xyxy_px for o in named])
        overlaps = pairwise_iou(torch.tensor([found.box_xyxy_px]), boxes)[0]
        if overlaps.max() >= 0.5:
            left.remove(named[int(overlaps.argmax())])
            same += 1
    return same, len(one.objects) + len(other.objects)


if __name__ == "__main__":
    main()
