"""Regions of whole pictures: the last stage of distillation asks the tower what the detector will ask.

A scene goes through the student once; its boxes are pooled from C3. What the teacher says of them is in the bank.
A scene is a window of one detection photo that holds a base box (classes balanced), or four single-object photos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from bank import Bank
from crops import PhotoPool, ahead, colour_jitter, window
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SCENES, MOSAICS = 6, 2  # detection photos and mosaics a batch
SMALLEST, VISIBLE = 12, 0.85  # px of the student's scene; share of a region that must be in the window
OBJECT_SMALLEST, OBJECT_VISIBLE = 6, 0.3  # the same of an object that is to be found in a scene
NOMINAL_SIDE = 320  # px of a scene, about

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionBatch:
    """Scenes [B, 3, side, side] in 0..1 (stretched to a square), boxes [k, 4] xyxy px a scene; the teacher's logits
    [n, 1000] and stride-32 maps [n, 1280, 4, 4] of the same boxes, and their base labels [n] (-1: none); the base
    objects [k, 4] (cxcywh in 0..1) of the first `SCENES` scenes, all of them, whatever regions were drawn."""

    scenes: Tensor
    boxes: list[Tensor]
    logits: Tensor
    maps: Tensor
    labels: Tensor
    objects: list[Tensor]


class View(NamedTuple):
    """Pixels [side, side, 3] of a window, boxes [k, 4] in them, the places of these boxes in the bank (negative:
    mirrored), and the base objects [m, 4] (cxcywh in 0..1)."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    places: NDArray[np.int64]
    objects: NDArray[np.float64]


class RegionSampler:
    """Draws views of photos with regions of the bank in them."""

    def __init__(self, pool: PhotoPool, bank: Bank, rng: np.random.Generator) -> None:
        self.pool, self.bank, self.rng = pool, bank, rng
        self.images = [*pool.scenes, *pool.photos]
        self.boxes, self.photo = np.asarray(bank.boxes), np.asarray(bank.photo)
        # Base boxes as often as the surest of the free windows.
        self.weight = np.where(np.asarray(bank.label) >= 0, 1.0, 0.15 + np.asarray(bank.sure))
        order = np.argsort(self.photo, kind="stable")
        ends = np.searchsorted(self.photo[order], np.arange(len(self.images) + 1))
        self.of_photo = [order[a:b] for a, b in pairwise(ends)]

    def view(self, photo: int, outer: Window, side: int, count: int) -> View:
        """The window `outer` of a photo, stretched to `side`, with `count` regions that lie in it."""
        width, height = outer[2] - outer[0], outer[3] - outer[1]
        scale = np.array([side / width, side / height] * 2)
        places = self.of_photo[photo]
        boxes = (self.boxes[places] - np.array([outer[0], outer[1]] * 2)) * scale
        inside = boxes.clip(0, side)
        seen = (inside[:, 2:] - inside[:, :2]).clip(0)
        share = seen.prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
        weight = self.weight[places] * ((share >= VISIBLE) & (seen.min(1) >= SMALLEST))
        if not weight.any():
            weight = share
        enough = int((weight > 0).sum()) >= count
        drawn = self.rng.choice(len(places), count, replace=not enough, p=weight / weight.sum())
        pixels = self.images[photo].resize((side, side), Image.Resampling.BILINEAR, box=outer)
        boxes, objects = inside[drawn], self.objects(photo, outer)
        if self.rng.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1)
            objects[:, 0] = 1 - objects[:, 0]
            drawn = drawn - len(places)  # negative places: mirrored
        return View(np.asarray(pixels), boxes, np.where(drawn < 0, -places[drawn] - 1, places[drawn]), objects)

    def objects(self, photo: int, outer: Window) -> NDArray[np.float64]:
        """Base objects [m, 4] of a photo in its window `outer`, cxcywh in 0..1 of it; none of single-object photos."""
        if photo >= len(self.pool.objects):
            return np.zeros((0, 4))
        sides = np.array([outer[2] - outer[0], outer[3] - outer[1]])
        corners = np.array(self.pool.objects[photo]).reshape(-1, 2, 2) - np.array(outer[:2])
        inside = corners.clip(0, sides)
        seen, whole = inside[:, 1] - inside[:, 0], corners[:, 1] - corners[:, 0]
        shown = seen.min(1) >= OBJECT_SMALLEST * sides.max() / NOMINAL_SIDE
        inside = (inside / sides)[shown & (seen.prod(1) >= OBJECT_VISIBLE * whole.prod(1))]
        return np.concatenate([inside.mean(1), inside[:, 1] - inside[:, 0]], 1)

    def scene(self, side: int, count: int) -> View:
        """A window of a detection photo around a base box."""
        photo, wanted, _ = self.pool.boxes[self.rng.choice(len(self.pool.boxes), p=self.pool.box_probability)]
        size = self.images[photo].size
        return self.view(photo, _around(wanted, window(*size, (0.15, 1.0), self.rng), size), side, count)

    def mosaic(self, side: int, count: int) -> View:
        """Four windows of single-object photos."""
        half, views = side // 2, []
        for corner in range(4):
            photo = len(self.pool.scenes) + int(self.rng.integers(len(self.pool.photos)))
            outer = window(*self.images[photo].size, (0.5, 1.0), self.rng)
            view = self.view(photo, outer, half, count // 4)
            views.append(view._replace(boxes=view.boxes + half * np.array([corner % 2, corner // 2] * 2)))
        rows = [np.concatenate([v.pixels for v in views[i : i + 2]], 1) for i in (0, 2)]
        boxes, places = np.concatenate([v.boxes for v in views]), np.concatenate([v.places for v in views])
        return View(np.concatenate(rows), boxes, places, np.zeros((0, 4)))


def _around(box: tuple[float, ...], outer: tuple[float, ...], size: tuple[int, int]) -> Window:
    """Shift (and where needed grow) a window so that it holds the box."""
    sides = []
    for low, high, length in ((0, 2, size[0]), (1, 3, size[1])):
        extent = min(max(outer[high] - outer[low], box[high] - box[low]), length)
        start = min(max(outer[low], box[high] - extent), box[low])
        sides.append((min(max(start, 0), length - extent), extent))
    (x, w), (y, h) = sides
    return x, y, x + w, y + h


def region_batches(pool: PhotoPool, bank: Bank, *, side: int, batch: int, seed: int) -> Iterator[RegionBatch]:
    """Endless batches of `batch` regions in scenes of 3/4 to 5/4 `side`."""
    rng = np.random.default_rng(seed)
    sampler, count = RegionSampler(pool, bank, rng), batch // (SCENES + MOSAICS)

    def make() -> RegionBatch:
        grown = int(rng.integers(side * 3 // 4, side * 5 // 4) // 64 * 64)
        views = [sampler.scene(grown, count) for _ in range(SCENES)]
        views += [sampler.mosaic(grown, count) for _ in range(MOSAICS)]
        places = np.concatenate([v.places for v in views])
        mirrored, places = places < 0, np.where(places < 0, -places - 1, places)
        maps = np.stack([bank.maps[i] for i in places])
        maps[mirrored] = maps[mirrored][..., ::-1]
        scenes = torch.from_numpy(np.stack([v.pixels for v in views])).permute(0, 3, 1, 2).float().div_(255)
        return RegionBatch(
            scenes=colour_jitter(scenes, rng),
            boxes=[torch.from_numpy(v.boxes).float() for v in views],
            logits=torch.from_numpy(bank.logits[places].astype(np.float32)),
            maps=torch.from_numpy(maps).float().mul_(6 / 255),
            labels=torch.from_numpy(np.asarray(bank.label[places])),
            objects=[torch.from_numpy(v.objects).float() for v in views[:SCENES]],
        )

    return ahead(make)
