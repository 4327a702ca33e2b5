"""How long people wait for nano: loading, the first image, the next ones.

    python benchmarks/first_answer.py --photo examples/coffee.jpg --threads 2

The image is resized to 640 pixels on its longer side. Names are 65 everyday ones; their embeddings are not cached on
disk before the run. Prints medians over `--runs`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

CLASSES = 65


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=Path("examples/coffee.jpg"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CORA_CACHE"] = cache
        start = time.perf_counter()
        import torch

        import cora
        from cora.images import read_image
        from cora.regions.everyday import EVERYDAY_NAMES

        imported = time.perf_counter()
        torch.set_num_threads(arguments.threads)
        detector = cora.load(arguments.model)
        loaded = time.perf_counter()
        image = read_image(arguments.photo)
        factor = 640 / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)))
        names = EVERYDAY_NAMES[:CLASSES]
        seconds = []
        for _ in range(arguments.runs + 1):
            began = time.perf_counter()
            detector.predict(image, names)
            seconds.append(time.perf_counter() - began)
    print(f"{arguments.model}, {image.width}x{image.height} px, {CLASSES} classes, {arguments.threads} threads")
    print(f"import {imported - start:.2f} s, load {loaded - imported:.2f} s, first image {seconds[0]:.2f} s")
    print(f"image, median of {arguments.runs}: {statistics.median(seconds[1:]):.3f} s (max {max(seconds[1:]):.3f} s)")


if __name__ == "__main__":
    main()
