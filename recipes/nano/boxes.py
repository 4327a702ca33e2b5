"""Trains the strict model's box stages together with its proposals: frozen maps limit how well boxes fit.

Command: python recipes/nano/boxes.py --start runs/nano/ovcoco_proposals.safetensors --kit ../shared/kit \\
    --minutes 58 --run runs/nano/boxes --output runs/nano/ovcoco_boxes.safetensors

The stages start from the frozen ones' weights and learn from images with boxes of the base classes: whole or a window,
mirrored, lighter and darker, at several sizes. What names regions stays frozen. Every few minutes the log says how many
boxes of the base classes of 80 held-out images the anchors hold. After a stop the command goes on from what was saved.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from localizer import BATCH, RECALL_IMAGES, recall
from loop import Drawn, Training
from maps import boxes_in
from PIL import Image
from sources import Source, base_only
from torch import Tensor

from cora.boxes import xyxy_to_cxcywh
from cora.detector import load
from cora.images import Preprocessor, read_image
from cora.structures import ImageBatch, Targets
from cora.towers.timm_tower import PIXEL_MEAN, PIXEL_STD
from cora.training.proposal_task import ProposalTask

#: Chance of a data set in a step.
MIX = {"coco": 0.7, "voc": 0.3}
#: Longer sides of the images of a step, pixels.
SIDES = (320, 384, 448, 512, 576)
#: Chances of a window, of other light and of other colours; share of the image's area that a window has.
WINDOW, LIGHT, COLOUR, WINDOW_AREA = 0.6, 0.5, 0.3, (0.15, 1.0)


def seen(source: Source, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A view of an image: pixels [3, h, w] as the tower wants them, boxes in 0..1 xyxy, labels."""
    image, boxes, labels = read_image(source.path), source.boxes_xyxy, source.labels
    if random.random() < WINDOW:
        image, boxes, labels = window(image, boxes, labels)
    factor = side / max(image.size)
    width, height = (max(32, round(length * factor)) for length in image.size)
    array = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    if random.random() < 0.5:
        pixels = pixels.flip(-1)
        boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
    if random.random() < LIGHT:
        mean = pixels.mean()
        pixels = (pixels - mean) * random.uniform(0.7, 1.3) + mean * random.uniform(0.7, 1.3)
    if random.random() < COLOUR:
        pixels = pixels * torch.tensor([random.uniform(0.85, 1.15) for _ in range(3)])[:, None, None]
    return (pixels.clamp(0, 1) - PIXEL_MEAN) / PIXEL_STD, boxes, labels


def window(image: Image.Image, boxes: Tensor, labels: Tensor) -> tuple[Image.Image, Tensor, Tensor]:
    """A part of the image that holds a box, after ten tries any part."""
    for _ in range(10):
        area, shape = random.uniform(*WINDOW_AREA), math.exp(random.uniform(-0.35, 0.35))
        wide, tall = min(1.0, math.sqrt(area) * shape), min(1.0, math.sqrt(area) / shape)
        left, top = random.uniform(0, 1 - wide), random.uniform(0, 1 - tall)
        part = (left, top, left + wide, top + tall)
        inside, kept = boxes_in(boxes, part)
        if kept.any():
            break
    return image.crop(tuple(round(at * image.size[n % 2]) for n, at in enumerate(part))), inside, labels[kept]  # type: ignore[arg-type]


def batch_of(sources: list[Source], side: int) -> tuple[ImageBatch, tuple[Targets, ...]]:
    """Views of images, padded to the largest and to whole cells of 32 pixels."""
    views = [seen(source, side) for source in sources]
    height, width = (max(-(-view[0].shape[axis] // 32) * 32 for view in views) for axis in (1, 2))
    pixels, mask = torch.zeros(len(views), 3, height, width), torch.ones(len(views), height, width, dtype=torch.bool)
    sizes = []
    for place, (view, _, _) in enumerate(views):
        rows, columns = view.shape[1:]
        pixels[place, :, :rows, :columns], mask[place, :rows, :columns] = view, False
        sizes.append((rows, columns))
    targets = tuple(Targets(xyxy_to_cxcywh(boxes), labels) for _, boxes, labels in views)
    channels_last = pixels.contiguous(memory_format=torch.channels_last)
    return ImageBatch(channels_last, mask, tuple(sizes), tuple(sizes)), targets


def drawer(data: dict[str, list[Source]]) -> Drawn:
    """A batch of lying or of standing images of one data set."""
    name = random.choices(list(MIX), list(MIX.values()))[0]
    lying = random.choice(data[name]).aspect >= 1
    alike = [one for one in data[name] if (one.aspect >= 1) == lying]
    return name, batch_of(random.sample(alike, BATCH), random.choice(SIDES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("start", "kit", "run", "output"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    groups = base_only(options.kit)
    model = load(options.start)
    task = ProposalTask(detector=model, trunk=True).train()
    trunk, preprocessor = model.image_tower.box_trunk, Preprocessor.from_config(model.config.preprocess)
    assert trunk is not None
    training = Training(
        {model.localizer: 5e-4, trunk: 3e-4},
        draw=lambda: drawer(groups),
        step=lambda _, batch: task(batch),
        folder=options.run,
        clip=1.0,
        decay=0.998,
        weight_decay=1e-2,
        check=lambda: recall(
            model,
            groups["choice"][:RECALL_IMAGES],
            lambda one: model.encode(preprocessor([read_image(one.path)]))[0],
        ),
    )
    training.run(options.minutes, hold=0.4)
    model.eval().save(options.output)
