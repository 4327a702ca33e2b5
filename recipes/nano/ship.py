"""Writes the two files of the package: settings chosen on held-out images go in, shared tensors are stored once.

Command: python recipes/nano/ship.py --nano runs/nano/nano.safetensors --ovcoco runs/nano/ovcoco.safetensors \\
    --out src/cora/assets

All settings were chosen on `sources.choice_images`: README.md has the numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cora.detector import load
from cora.detector.checkpoint import write_sharing_checkpoint
from cora.detector.config import DetectorConfig

#: Factor on the cosine, cosine of the background, power of objectness, score threshold.
SETTINGS = {"nano": (12.0, 0.5, 1.3, 0.17), "ovcoco": (12.0, 0.35, 1.0, 0.05)}


def settled(config: DetectorConfig, model: str) -> DetectorConfig:
    """A model's configuration with its settings."""
    scale, background, power, threshold = SETTINGS[model]
    tower = replace(config.tower, logit_scale=scale, background=background)
    postprocess = replace(config.postprocess, score_threshold=threshold, distractors="none")
    postprocess = replace(postprocess, nms_iou=0.5, objectness_power=power)
    return replace(config, tower=tower, postprocess=postprocess)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("nano", "ovcoco", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    nano, strict = load(options.nano), load(options.ovcoco)
    nano.config, strict.config = settled(nano.config, "nano"), settled(strict.config, "ovcoco")
    whole = options.out / "nano.safetensors"
    nano.save(whole)
    target = options.out / "nano-ovcoco.safetensors"
    shared = write_sharing_checkpoint(target, strict.config, strict.state_dict(), beside=whole)
    print(f"{whole}: {whole.stat().st_size / 1e6:.1f} MB; {target}: {target.stat().st_size / 1e6:.1f} MB")
    print(f"{len(shared)} tensors of the second are those of the first")
