"""Maps of all images by the frozen towers, computed once: everything that is learned later reads them.

Command: python recipes/nano/maps.py --model runs/nano/nano_start.safetensors --kit ../shared/kit --voc VOC --nyu NYU \\
    --out runs/nano/maps_nano

VOC is a folder with `images/` and `Annotations/`, NYU one with `nyu_images/` and `nyu_labels40/` (README.md says where
they come from). One file an image, half precision; what is there already is left alone, so the command goes on after a
stop, and `--part 0/2` and `--part 1/2` share the work between two processes. 0.24 s an image on one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sources import Source, everything
from torch import Tensor

from cora.boxes import xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.images import read_image
from cora.structures import FeatureMap, Targets


def map_path(folder: Path, source: Source) -> Path:
    """Where an image's map lies."""
    return folder / f"{source.key}.safetensors"


def read_map(folder: Path, source: Source) -> Tensor:
    """The packed map [C, h, w] of an image, float16."""
    return load_file(map_path(folder, source))["c3"]


def collate(folder: Path, sources: list[Source]) -> tuple[FeatureMap, tuple[Targets, ...]]:
    """Maps of a batch, padded to the largest, with their boxes."""
    maps = [read_map(folder, source) for source in sources]
    height, width = max(one.shape[1] for one in maps), max(one.shape[2] for one in maps)
    features = torch.zeros(len(maps), maps[0].shape[0], height, width)
    mask = torch.ones(len(maps), height, width, dtype=torch.bool)
    for place, one in enumerate(maps):
        features[place, :, : one.shape[1], : one.shape[2]] = one
        mask[place, : one.shape[1], : one.shape[2]] = False
    targets = tuple(Targets(xyxy_to_cxcywh(one.boxes_xyxy), one.labels) for one in sources)
    return FeatureMap(features, mask), targets


@torch.inference_mode()
def compute(detector: Detector, sources: list[Source], folder: Path) -> None:
    """Compute what is missing."""
    tower = detector.image_tower.for_inference(torch.bfloat16)
    for source in sources:
        path = map_path(folder, source)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        c3, _ = tower.features(detector.preprocessor([read_image(source.path)]))
        save_file({"c3": c3.features[0].half().contiguous()}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "kit", "voc", "nyu", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--part", default="0/1")
    options = parser.parse_args()
    part, parts = (int(number) for number in options.part.split("/"))
    groups = everything(options.kit, options.voc, options.nyu)
    compute(load(options.model), [one for group in groups.values() for one in group][part::parts], options.out)
