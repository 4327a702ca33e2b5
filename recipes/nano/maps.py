"""Maps of all images by the frozen towers, computed once: everything that is learned later reads them.

Command: python recipes/nano/maps.py --model runs/nano/nano_start.safetensors --kit ../shared/kit --voc VOC --nyu NYU \\
    --out runs/nano/maps_nano
The strict model: the same with `--model runs/nano/ovcoco_start.safetensors --strict`.

VOC is a folder with `images/` and `Annotations/`, NYU one with `nyu_images/` and `nyu_labels40/` (README.md says where
they come from). One file an image, half precision; what is there already is left alone, so the command goes on after a
stop, and `--part 0/2` and `--part 1/2` share the work between two processes. 0.24 s an image on one core.

The strict model has few boxes to learn from, so it sees every training image three times: whole, a window of it
enlarged to the model's size, and whole at three fifths of that size.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from sources import ALL, Source, base_only, everything, part_of
from torch import Tensor

from cora.boxes import xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.files import write_safetensors
from cora.images import Preprocessor, read_image
from cora.pyramid import PyramidLayout
from cora.structures import FeatureMap, Targets

#: Size of the smaller view.
SMALL = 0.6
#: Cells that a batch's views have at most in a row or column; the last two leave maps whole.
LIMITS = (10, 12, 14, 64, 64)


def map_path(folder: Path, source: Source) -> Path:
    """Where an image's map lies."""
    return folder / f"{source.key}.safetensors"


def read_map(folder: Path, source: Source) -> Tensor:
    """The packed map [C, h, w] of an image, float16."""
    return load_file(map_path(folder, source))["c3"]


def views_of(source: Source) -> list[Source]:
    """The image, a window of it and a smaller copy, each with the boxes that are to be seen in it.

    The window is drawn from the image's name, so that maps and boxes agree whenever they are computed.
    """
    drawn = random.Random(source.key)
    wide, tall = drawn.uniform(0.35, 0.75), drawn.uniform(0.35, 0.75)
    left, top = drawn.uniform(0, 1 - wide), drawn.uniform(0, 1 - tall)
    window = (left, top, left + wide, top + tall)
    boxes, kept = boxes_in(source.boxes_xyxy, window)
    enlarged = replace(
        source,
        key=f"{source.key}.window",
        boxes_xyxy=boxes,
        labels=source.labels[kept],
        aspect=source.aspect * wide / tall,
        window=window,
    )
    return [source, enlarged, replace(source, key=f"{source.key}.small", scale=SMALL)]


def boxes_in(boxes_xyxy: Tensor, window: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Boxes in 0..1 of a window, and which ones [T] stay: those that have two fifths of their area in it."""
    start, extent = torch.tensor(window[:2] * 2), torch.tensor([window[2] - window[0], window[3] - window[1]] * 2)
    moved = (boxes_xyxy - start) / extent
    inside = moved.clamp(0, 1)
    kept = (inside[:, 2:] - inside[:, :2]).prod(1) > 0.4 * (moved[:, 2:] - moved[:, :2]).prod(1)
    return inside[kept], kept


def vary(packed: Tensor, source: Source, layout: PyramidLayout, limit: int) -> tuple[Tensor, Source]:
    """Another view of a map: a window of at most `limit` x `limit` cells of it, mirrored one time of two.

    The network saw the whole image, so this is not what it would see of the window; it is what a cached map allows.
    A box stays if two fifths of it lie in the window.
    """
    boxes, labels = source.boxes_xyxy, source.labels
    height, width = packed.shape[1:]
    rows, columns = min(height, limit), min(width, limit)
    top, left = random.randint(0, height - rows), random.randint(0, width - columns)
    packed = packed[:, top : top + rows, left : left + columns]
    boxes, kept = boxes_in(boxes, (left / width, top / height, (left + columns) / width, (top + rows) / height))
    labels = labels[kept]
    if random.random() < 0.5:
        levels, rest = layout.unpack(packed[None]), packed[layout.packed_channels :]
        packed = torch.cat([layout.pack([level.flip(-1) for level in levels])[0], rest.flip(-1)])
        boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
    return packed, replace(source, boxes_xyxy=boxes, labels=labels)


def collate(
    folder: Path, sources: list[Source], layout: PyramidLayout | None = None
) -> tuple[FeatureMap, tuple[Targets, ...]]:
    """Maps of a batch, padded to the largest, with their boxes; with a layout, varied views of them."""
    maps = [read_map(folder, source) for source in sources]
    if layout is not None:
        limit = random.choice(LIMITS)
        views = [vary(one, source, layout, limit) for one, source in zip(maps, sources, strict=True)]
        maps, sources = [view[0] for view in views], [view[1] for view in views]
    height, width = max(one.shape[1] for one in maps), max(one.shape[2] for one in maps)
    features = torch.zeros(len(maps), maps[0].shape[0], height, width).contiguous(memory_format=torch.channels_last)
    mask = torch.ones(len(maps), height, width, dtype=torch.bool)
    for place, one in enumerate(maps):
        features[place, :, : one.shape[1], : one.shape[2]] = one
        mask[place, : one.shape[1], : one.shape[2]] = False
    targets = tuple(Targets(xyxy_to_cxcywh(one.boxes_xyxy), one.labels) for one in sources)
    return FeatureMap(features, mask), targets


@torch.inference_mode()
def compute(detector: Detector, sources: list[Source], folder: Path) -> None:
    """Compute what is missing."""
    tower, usual = detector.image_tower.for_inference(torch.bfloat16), detector.config.preprocess.long_side
    for source in sources:
        path = map_path(folder, source)
        if path.exists():
            continue
        image, side = read_image(source.path), round(usual * source.scale)
        if source.window is not None:
            image = image.crop(tuple(round(at * image.size[n % 2]) for n, at in enumerate(source.window)))
        preprocess = replace(detector.config.preprocess, short_side=side, long_side=side)
        c3, _ = tower.features(Preprocessor.from_config(preprocess)([image]))
        write_safetensors(path, {"c3": c3.features[0].half().contiguous()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "kit", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--voc", type=Path)
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--part", default=ALL)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    if options.strict:
        groups = base_only(options.kit)
        learned = [view for name in ("coco", "voc") for one in groups[name] for view in views_of(one)]
        images = groups["choice"] + learned
    else:
        images = [one for group in everything(options.kit, options.voc, options.nyu).values() for one in group]
    compute(load(options.model), part_of(images, options.part), options.out)
