"""The held-out images of a fine-tuning run: chosen, written to the run folder, and read again to measure on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cora.data.coco import CocoDataset
from cora.data.coco_content import read_json
from cora.errors import DataError
from cora.files import write_json

HELD_OUT = "held_out.json"
#: Random divisions that are compared.
_DRAWS = 64


def write_hold_out(run: Path, dataset: CocoDataset) -> Path:
    """Write the held-out images and boxes as a COCO file. Shards are not supported, since their images are no files."""
    path = run / HELD_OUT
    info = {"held_out": len(dataset), "images": str(dataset.images.resolve())}
    write_json(path, {"info": info, **dataset.to_coco()}, indent=None)
    return path


def read_hold_out(run: Path) -> tuple[Path, Path]:
    """Image folder and annotation file of the images that a fine-tuning run held out.

    Raises:
        DataError: the folder is no such run, or the run held nothing out.
    """
    file = run / HELD_OUT
    if not file.is_file():
        raise DataError(
            f"--run: expected the folder of a finished 'cora finetune' that held images out, got no {HELD_OUT} in "
            f"{run}; name --images and --annotations instead"
        )
    info = read_json(file).get("info")
    images = info.get("images") if isinstance(info, dict) else None
    if not isinstance(images, str):
        raise DataError(f"--run: expected a list of held-out images that 'cora finetune' wrote, got {file}")
    return Path(images), file


def divide_images(classes: Sequence[Sequence[int]], *, share: float, seed: int) -> list[int]:
    """Choose images to hold out: about `share` of the images, and of the boxes of every class.

    Of some random divisions, the one is taken that leaves the fewest classes without a box among the other images, and
    of those the one that is closest to `share` in every class.

    Args:
        classes: for every one of at least two images, the class indices of its boxes.
        share: 0..1; at least one image is held out, and one is not.
        seed: seed of the divisions.

    Returns:
        Sorted indices of the images to hold out.
    """
    images = len(classes)
    wanted = min(max(1, round(share * images)), images - 1)
    number = 1 + max((label for labels in classes for label in labels), default=0)
    boxes = torch.zeros(images, number)
    for image, labels in enumerate(classes):
        boxes[image] = torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=number).float()
    total, images_with = boxes.sum(dim=0).clamp(min=1), (boxes > 0).sum(dim=0)
    random = torch.Generator().manual_seed(seed)
    best, least = torch.arange(wanted), float("inf")
    for _ in range(_DRAWS):
        drawn = torch.randperm(images, generator=random)[:wanted]
        deviation = ((boxes[drawn].sum(dim=0) / total - wanted / images).abs() * (images_with > 0)).sum()
        lost = ((boxes[drawn] > 0).sum(dim=0) == images_with) & (images_with > 0)
        cost = float(deviation) + number * float(lost.sum())
        if cost < least:
            best, least = drawn, cost
    return sorted(best.tolist())
