"""Images per second of `cora batch` by processes, and what it costs over the plain Python API.

    python benchmarks/batch.py --pictures 64 --processes 1 2

Makes images of 640x480 pixels from the examples, labels them with `predict` in a loop and then as a batch, each in a
process of its own with as many threads in total as there are cores, and prints images per second. Loading the model
is not counted: a batch's workers load before their first image, so of theirs the time from the first finished
image on counts. The table before it times the parts of a batch that are not detection, over many images that all
have 10 boxes, and tells by how much the process grew over what a thousand of them take.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance

from cora.batch import DetectSettings, ExportSettings, Watch, run_batch

CLASSES = ("cat", "coffee cup", "person", "spoon", "dog", "chair", "car", "book")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--many", type=int, default=100_000, help="images without detection; 0 leaves them out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.many:  # first, since a model would take more memory than what is looked for here
            without_detection(Path(folder) / "many", arguments.many)
        os.environ["MODEL"] = arguments.model
        pictures = write_pictures(Path(folder) / "pictures", arguments.pictures)
        print(f"{arguments.model}, {arguments.pictures} images of 640x480, {len(os.sched_getaffinity(0))} core(s)")
        print("| Way | Images a second | Of the plain API |\n| --- | --- | --- |")
        plain = plain_speed(pictures)
        print(f"| `predict` in a loop | {plain:.2f} | 100 % |")
        for count in arguments.processes:
            speed = batch_speed(pictures, Path(folder) / f"out-{count}", count)
            plural = "es" if count > 1 else ""
            print(f"| batch, {count} process{plural} | {speed:.2f} | {100 * speed / plain:.0f} % |", flush=True)


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    originals = [Image.open(path).convert("RGB").resize((640, 480)) for path in sorted(EXAMPLES.glob("*.jpg"))]
    for number in range(count):
        picture = ImageEnhance.Brightness(originals[number % len(originals)]).enhance(0.8 + 0.4 * number / count)
        picture.save(folder / f"{number:06d}.jpg", quality=90)
    return folder


def open_model(worker: int) -> Any:
    import cora

    return cora.load(os.environ["MODEL"])


def plain_speed(pictures: Path) -> float:
    model = open_model(0)
    paths = sorted(pictures.iterdir())
    vocabulary = model.vocabulary(CLASSES)
    model.predict(paths[0], vocabulary, score=0.1)
    start = time.perf_counter()
    for path in paths:
        model.predict(path, vocabulary, score=0.1)
    return len(paths) / (time.perf_counter() - start)


def batch_speed(pictures: Path, folder: Path, processes: int) -> float:
    times: list[tuple[float, int]] = []
    run_batch(
        [str(pictures)],
        folder=folder,
        settings=DetectSettings(classes=CLASSES, keep=0.1),
        export=ExportSettings(format="coco"),
        open_model=open_model,
        processes=processes,
        watch=Watch(detecting=lambda more: times.append((time.perf_counter(), more)) if more else None),
    )
    first, last = times[0], times[-1]
    return (sum(more for _, more in times) - first[1]) / (last[0] - first[0])


class NoModel:
    """Ten boxes in every image at no cost."""

    def vocabulary(self, classes: Any, *, distractors: Any = None) -> Any:
        from cora.regions import Vocabulary

        return Vocabulary(tuple(classes), torch.zeros(len(classes), 1))

    def predict(self, images: list[Image.Image], classes: Any, **options: Any) -> list[Any]:
        from cora.structures import Detections

        boxes = torch.arange(40, dtype=torch.float32).view(10, 4) + torch.tensor([0, 0, 9, 9])
        scores = torch.linspace(0.9, 0.4, 10)
        found = Detections(boxes, scores, torch.arange(10) % len(CLASSES), CLASSES, (64, 64))
        return [found] * len(images)


def open_no_model(worker: int) -> NoModel:
    return NoModel()


def label(source: Path, folder: Path, format: Any, watch: Watch | None = None) -> None:
    """A batch without detection."""
    run_batch(
        [str(source)],
        folder=folder,
        settings=DetectSettings(classes=CLASSES, keep=0.1),
        export=ExportSettings(format=format),
        open_model=open_no_model,
        watch=watch,
    )


def without_detection(folder: Path, count: int) -> None:
    """What an image costs besides its detection: listing, reading a small one, records, files, labels."""
    small = Image.new("RGB", (64, 64), "grey")
    for number in range(count):
        path = folder / "in" / f"{number // 1000:04d}" / f"{number:07d}.png"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        small.save(path, compress_level=1)
    label(folder / "in" / "0000", folder / "first", "parquet")  # imports what will be needed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{count} images of 64x64 with 10 boxes each and no detection, milliseconds an image:")
    print("| Format | Listing | Reading, boxes and parts | Labels |\n| --- | --- | --- | --- |")
    for format in ("coco", "yolo", "voc", "parquet"):
        marks: dict[str, float] = {}
        watch = Watch(
            begin=lambda *_, at=marks: at.setdefault("listed", time.perf_counter()),
            writing=lambda _, at=marks: at.setdefault("detected", time.perf_counter()),
        )
        start = time.perf_counter()
        label(folder / "in", folder / format, format, watch)
        marks["end"] = time.perf_counter()
        steps = (start, marks["listed"], marks["detected"], marks["end"])
        costs = [1000 * (later - earlier) / count for earlier, later in pairwise(steps)]
        print(f"| {format} | " + " | ".join(f"{cost:.2f}" for cost in costs) + " |", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\nMemory grew by {grown:.0f} MB.\n")


if __name__ == "__main__":
    main()
