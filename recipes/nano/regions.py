"""Regions of whole pictures: the last stage of distillation asks the tower what the detector will ask.

A scene goes through the student once; its boxes are pooled from C3. The teacher sees each box as a crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from crops import PhotoPool, ahead, colour_jitter, jittered, window
from PIL import Image
from torch import Tensor

SCENES = 8  # scenes a batch; each gives batch // SCENES boxes


@dataclass(frozen=True)
class RegionBatch:
    """Scenes [B, 3, side, side] in 0..1 (stretched to a square), boxes [k, 4] xyxy px a scene, crops [n, 3, size, size]
    of the same boxes, and their base labels [n] (-1: none)."""

    scenes: Tensor
    boxes: list[Tensor]
    crops: Tensor
    labels: Tensor


def one_scene(
    pool: PhotoPool,
    by_scene: dict[int, list[tuple[tuple[float, ...], int]]],
    side: int,
    size: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[list[float]], list[np.ndarray], list[int]]:
    """A window of a scene with `count` boxes: jittered base boxes inside it (half at most), the rest free windows.

    The scene is that of a base box drawn with classes balanced, and the window holds that box.
    """
    index, wanted, _ = pool.boxes[rng.choice(len(pool.boxes), p=pool.box_probability)]
    image = pool.scenes[index]
    outer = _around(wanted, window(*image.size, (0.2, 1.0), rng), image.size)
    view = image.resize((side, side), Image.Resampling.BILINEAR, box=outer)
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    picked: list[tuple[tuple[float, ...], int]] = []
    boxes_here = by_scene[index]
    for box, label in [boxes_here[i] for _ in range(3) for i in rng.permutation(len(boxes_here))]:
        x0, y0, x1, y1 = jittered(box, *image.size, rng)
        inside = (max(x0, outer[0]), max(y0, outer[1]), min(x1, outer[2]), min(y1, outer[3]))
        seen = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0)
        large = min(inside[2] - inside[0], inside[3] - inside[1]) >= 12
        if seen > 0.6 * (x1 - x0) * (y1 - y0) and large and len(picked) < count // 2:
            picked.append((inside, label))
    while len(picked) < count:
        x0, y0, x1, y1 = window(int(width), int(height), (0.02, 0.6), rng)
        picked.append(((x0 + outer[0], y0 + outer[1], x1 + outer[0], y1 + outer[1]), -1))
    crops = [np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=b)) for b, _ in picked]
    scale = np.array([side / width, side / height] * 2)
    boxes = [list((np.array(b) - np.array([outer[0], outer[1]] * 2)) * scale) for b, _ in picked]
    return np.asarray(view), boxes, crops, [label for _, label in picked]


def _around(box: tuple[float, ...], outer: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...]:
    """Shift (and where needed grow) a window so that it holds the box."""
    sides = []
    for low, high, length in ((0, 2, size[0]), (1, 3, size[1])):
        extent = min(max(outer[high] - outer[low], box[high] - box[low]), length)
        start = min(max(outer[low], box[high] - extent), box[low])
        sides.append((min(max(start, 0), length - extent), extent))
    (x, w), (y, h) = sides
    return x, y, x + w, y + h


def region_batches(
    pool: PhotoPool, *, side: int, size: int, batch: int, mixup: float, seed: int
) -> Iterator[RegionBatch]:
    """Endless batches of `SCENES` scenes and `batch` regions; `mixup` must be 0 here."""
    assert mixup == 0
    by_scene: dict[int, list[tuple[tuple[float, ...], int]]] = {}
    for scene, box, label in pool.boxes:
        by_scene.setdefault(scene, []).append((box, label))
    rng = np.random.default_rng(seed)

    def make() -> RegionBatch:
        grown = int(rng.integers(side * 3 // 4, side * 5 // 4) // 32 * 32)
        made = [one_scene(pool, by_scene, grown, size, batch // SCENES, rng) for _ in range(SCENES)]
        views, boxes, crops, labels = zip(*made, strict=True)
        scenes = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float().div_(255)
        pixels = torch.from_numpy(np.stack([c for cs in crops for c in cs])).permute(0, 3, 1, 2).float().div_(255)
        if rng.random() < 0.5:
            scenes, pixels = scenes.flip(-1), pixels.flip(-1)
            boxes = tuple([[grown - x1, y0, grown - x0, y1] for x0, y0, x1, y1 in bs] for bs in boxes)
        return RegionBatch(
            scenes=colour_jitter(scenes, rng),
            boxes=[torch.tensor(bs, dtype=torch.float32) for bs in boxes],
            crops=pixels,
            labels=torch.tensor([label for row in labels for label in row]),
        )

    return ahead(make)
