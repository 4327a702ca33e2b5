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
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sources import Source, everything
from torch import Tensor

from cora.boxes import xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.images import read_image
from cora.pyramid import PyramidLayout
from cora.structures import FeatureMap, Targets


def map_path(folder: Path, source: Source) -> Path:
    """Where an image's map lies."""
    return folder / f"{source.key}.safetensors"


def read_map(folder: Path, source: Source) -> Tensor:
    """The packed map [C, h, w] of an image, float16."""
    return load_file(map_path(folder, source))["c3"]


def vary(packed: Tensor, source: Source, layout: PyramidLayout) -> tuple[Tensor, Source]:
    """Another view of a map: a window of it three times of five, mirrored one time of two.

    The network saw the whole image, so this is not what it would see of the window; it is what a cached map allows.
    A box stays if two fifths of it lie in the window.
    """
    boxes, labels = source.boxes_xyxy, source.labels
    if random.random() < 0.6:
        height, width = packed.shape[1:]
        tall = random.uniform(0.55, 1)
        wide = random.uniform(max(0.5, tall - 0.15), min(1, tall + 0.15))
        rows, columns = min(height, max(5, round(height * tall))), min(width, max(5, round(width * wide)))
        top, left = random.randint(0, height - rows), random.randint(0, width - columns)
        packed = packed[:, top : top + rows, left : left + columns]
        window = torch.tensor([left / width, top / height] * 2), torch.tensor([columns / width, rows / height] * 2)
        moved = (boxes - window[0]) / window[1]
        inside = moved.clamp(0, 1)
        kept = (inside[:, 2:] - inside[:, :2]).prod(1) > 0.4 * (moved[:, 2:] - moved[:, :2]).prod(1)
        boxes, labels = inside[kept], labels[kept]
    if random.random() < 0.5:
        packed = layout.pack([level.flip(-1) for level in layout.unpack(packed[None])])[0]
        boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
    return packed, Source(source.key, source.path, source.names, boxes, labels)


def collate(
    folder: Path, sources: list[Source], layout: PyramidLayout | None = None
) -> tuple[FeatureMap, tuple[Targets, ...]]:
    """Maps of a batch, padded to the largest, with their boxes; with a layout, varied views of them."""
    maps = [read_map(folder, source) for source in sources]
    if layout is not None:
        views = [vary(one, source, layout) for one, source in zip(maps, sources, strict=True)]
        maps, sources = [view[0] for view in views], [view[1] for view in views]
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
