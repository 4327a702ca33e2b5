"""Work of the parts of a detector for one image, in multiplications: what a tower costs before anyone has its weights.

    python benchmarks/tower_work.py

Counted on shapes alone (torch's "meta" device), so it takes seconds and no memory, whatever the size of the tower.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from cora.detector import Detector, preset_config
from cora.regions import region_pooling

ANCHORS, EXACT = 1000, 100


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", nargs="+", default=["RN50-quickgelu", "RN50x4-quickgelu", "convnext_base_w"])
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1088), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args(arguments)
    height, width = options.size
    print(f"G multiplications for an image of {height} x {width} pixels")
    print(f"| tower | M weights | tower | fast pooling, {ANCHORS} | exact pooling, {EXACT} | localizer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in options.towers:
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in work(name, height, width)) + " |")
    return 0


@torch.no_grad()
def work(name: str, height: int, width: int) -> tuple[float, ...]:
    """Weights of the image tower in millions; then, in 10^9: tower, fast and exact pooling, localizer forward."""
    with torch.device("meta"):
        detector = Detector.build(preset_config(name))
        pixels, mask = torch.zeros(1, 3, height, width), torch.zeros(1, height, width, dtype=torch.bool)
        boxes, content = torch.zeros(1, ANCHORS, 4), torch.zeros(1, ANCHORS, detector.config.localizer.dim)
        c3, c4 = detector.image_tower.maps(pixels, mask)
        pooling, table = region_pooling(detector.image_tower, static=True), detector.prompted_positions()
        steps: tuple[Callable[[], object], ...] = (
            lambda: detector.image_tower.maps(pixels, mask),
            lambda: pooling.fast(pooling.prepare(c4), boxes, table),
            lambda: pooling.exact(c3, boxes[:, :EXACT], table),
            lambda: detector.localizer.decode(detector.encode_map(c3), boxes, content),
        )
        weights = sum(value.numel() for value in detector.image_tower.parameters()) / 1e6
        return (weights, *map(_count, steps))


def _count(step: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 2e9  # two operations a multiplication


if __name__ == "__main__":
    raise SystemExit(main())
