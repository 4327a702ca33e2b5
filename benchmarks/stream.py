"""Memory of `predict` over a stream of images: what the process holds after some of them, and how much it grew.

Command: python benchmarks/stream.py FOLDER --classes "cup, spoon" --threads 1

An iterator of paths gives the images; results are kept, as a user would keep them. The growth counts from the first 50
images on, when every size has been seen and the allocator has its pools. Fails (exit code 1) if it is more than
`--growth` MB.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import cora

WARM_UP = 50
STEPS = (10, WARM_UP, 100, 200, 400, 600, 800)


def resident_mb() -> float:
    """Memory of this process in MB (10^6 bytes), pages of libraries included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(paths: list[Path], classes: list[str], model: str) -> Iterator[tuple[int, float]]:
    """(number of images, MB) after some numbers of images and after all."""
    predictor = cora.load(model)
    vocabulary = predictor.vocabulary(classes)
    kept = []
    for number, found in enumerate(predictor.predict(iter(paths), vocabulary), start=1):
        kept.append(found)
        if number in STEPS or number == len(paths):
            yield number, resident_mb()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", default="cup, spoon")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--growth", type=float, default=150.0, help="MB allowed over the first 50 images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(images) <= WARM_UP:
        sys.exit(f"expected more than {WARM_UP} images, got {len(images)} in {options.folder}")
    began, first, last = time.monotonic(), 0.0, 0.0
    for count, last in measure(images, [name.strip() for name in options.classes.split(",")], options.model):
        first = last if count == WARM_UP else first
        print(f"{count} images: {last:.0f} MB, {time.monotonic() - began:.0f} s", flush=True)
    print(f"grew by {last - first:.0f} MB over the first {WARM_UP} images")
    sys.exit(last - first > options.growth)
