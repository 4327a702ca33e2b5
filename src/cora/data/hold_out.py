"""The hold-out of a fine-tuning run: drawn, written to the run's folder, and read again to measure on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cora.data.coco import CocoDataset
from cora.data.coco_content import read_json
from cora.errors import DataError
from cora.files import write_json

HELD_OUT = "held_out.json"
#: Random divisions, of which the one that keeps the classes' shares best is taken.
_DRAWS = 64


def write_hold_out(run: Path, dataset: CocoDataset) -> Path:
    """Write the held-out images and boxes as a COCO file; not of shards, whose images are no files."""
    path = run / HELD_OUT
    info = {"held_out": len(dataset), "images": str(dataset.images.resolve())}
    write_json(path, {"info": info, **dataset.to_coco()}, indent=None)
    return path


def read_hold_out(run: Path) -> tuple[Path, Path]:
    """Folder of the images and file of the boxes that a fine-tuning run held out.

    Raises:
        DataError: it is no such run, or it held nothing out.
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
    """Which images to hold out: about `share` of them and of the boxes of every class, at random by `seed`.

    Args:
        classes: for every image the classes of its boxes.
        share: 0..1; at least one image is held out and one left.
        seed: of the draws.

    Returns:
        Sorted indices; a class that more than one image has stays in at least one of the others.
    """
    count = len(classes)
    wanted = min(max(1, round(share * count)), count - 1)
    number = 1 + max((c for one in classes for c in one), default=0)
    boxes = torch.zeros(count, number)
    for photo, one in enumerate(classes):
        boxes[photo] = torch.bincount(torch.tensor(one, dtype=torch.int64), minlength=number).float()
    total, present = boxes.sum(dim=0).clamp(min=1), (boxes > 0).sum(dim=0)
    random = torch.Generator().manual_seed(seed)
    best, least = torch.arange(wanted), float("inf")
    for _ in range(_DRAWS):
        drawn = torch.randperm(count, generator=random)[:wanted]
        away = ((boxes[drawn].sum(dim=0) / total - wanted / count).abs() * (present > 0)).sum()
        lost = ((boxes[drawn] > 0).sum(dim=0) == present) & (present > 0)
        cost = float(away) + number * float(lost.sum())
        if cost < least:
            best, least = drawn, cost
    return sorted(best.tolist())
