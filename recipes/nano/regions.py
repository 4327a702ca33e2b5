"""Regions of whole pictures: the last stage of distillation asks the tower what the detector will ask.

A scene goes through the student once; its boxes are pooled from C3. The teacher sees each box as a crop.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from crops import PhotoPool, colour_jitter, jittered, window
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
    pool: PhotoPool, by_scene: dict[int, list[tuple[tuple[float, ...], int]]], side: int, size: int, count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[list[float]], list[np.ndarray], list[int]]:
    """A random window of a scene with `count` boxes: jittered base boxes inside it, the rest free windows."""
    index = int(rng.integers(len(pool.scenes)))
    image = pool.scenes[index]
    outer = window(*image.size, (0.2, 1.0), rng)
    view = image.resize((side, side), Image.Resampling.BILINEAR, box=outer)
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    picked: list[tuple[tuple[float, ...], int]] = []
    for box, label in by_scene.get(index, []):
        x0, y0, x1, y1 = jittered(box, *image.size, rng)
        inside = (max(x0, outer[0]), max(y0, outer[1]), min(x1, outer[2]), min(y1, outer[3]))
        seen = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0)
        if seen > 0.6 * (x1 - x0) * (y1 - y0) and min(inside[2] - inside[0], inside[3] - inside[1]) >= 12:
            picked.append((inside, label))
    order = rng.permutation(len(picked))[: count * 2 // 3]
    picked = [picked[i] for i in order]
    while len(picked) < count:
        x0, y0, x1, y1 = window(int(width), int(height), (0.01, 0.6), rng)
        picked.append(((x0 + outer[0], y0 + outer[1], x1 + outer[0], y1 + outer[1]), -1))
    crops = [np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=b)) for b, _ in picked]
    scale = np.array([side / width, side / height] * 2)
    boxes = [list((np.array(b) - np.array([outer[0], outer[1]] * 2)) * scale) for b, _ in picked]
    return np.asarray(view), boxes, crops, [label for _, label in picked]


def region_batches(
    pool: PhotoPool, *, side: int, size: int, batch: int, mixup: float, seed: int
) -> Iterator[RegionBatch]:
    """Endless batches of `SCENES` scenes and `batch` regions; `mixup` must be 0 here."""
    assert mixup == 0
    by_scene: dict[int, list[tuple[tuple[float, ...], int]]] = {}
    for scene, box, label in pool.boxes:
        by_scene.setdefault(scene, []).append((box, label))
    ready: queue.Queue[RegionBatch] = queue.Queue(maxsize=3)

    def produce() -> None:
        rng = np.random.default_rng(seed)
        while True:
            grown = int(rng.integers(side * 3 // 4, side * 5 // 4) // 32 * 32)
            made = [one_scene(pool, by_scene, grown, size, batch // SCENES, rng) for _ in range(SCENES)]
            views, boxes, crops, labels = zip(*made, strict=True)
            scenes = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float().div_(255)
            pixels = torch.from_numpy(np.stack([c for cs in crops for c in cs])).permute(0, 3, 1, 2).float().div_(255)
            if rng.random() < 0.5:
                scenes, pixels = scenes.flip(-1), pixels.flip(-1)
                boxes = tuple([[grown - x1, y0, grown - x0, y1] for x0, y0, x1, y1 in bs] for bs in boxes)
            ready.put(
                RegionBatch(
                    colour_jitter(scenes, rng),
                    [torch.tensor(bs, dtype=torch.float32) for bs in boxes],
                    pixels,
                    torch.tensor([x for ls in labels for x in ls]),
                )
            )

    threading.Thread(target=produce, daemon=True).start()
    while True:
        yield ready.get()
