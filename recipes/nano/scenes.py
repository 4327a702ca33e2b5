"""Endless scenes of few photos: windows of detection photos and mosaics of single-object ones, with boxes to ask about.

A scene is a window of one detection photo that holds a base box (classes balanced), or four single-object photos.
Its regions are the base boxes in it, shaken, and windows of all sizes; the teacher says which of these hold something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from photos import PhotoPool, ahead, colour_jitter, jittered, window
from PIL import Image
from torch import Tensor

MOSAICS = 0.3  # share of the scenes
SMALLEST, VISIBLE = 20, 0.6  # px of a region's shorter side; share of a base box that must be in the scene
OBJECT_SMALLEST, OBJECT_VISIBLE = 6, 0.3  # the same of an object that is to be found in a scene
NOMINAL_SIDE = 320  # px of a scene, about

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneBatch:
    """Scenes [B, 3, side, side] in 0..1 (stretched to a square); candidates [k, 4] xyxy px a scene and which
    of them are base boxes, shaken [k]; base objects [m, 4] (cxcywh in 0..1) a scene, None for mosaics."""

    scenes: Tensor
    boxes: list[Tensor]
    shaken: list[Tensor]
    objects: list[Tensor | None]


class View(NamedTuple):
    """Pixels [side, side, 3], boxes [k, 4] xyxy px, which are base boxes [k], objects [m, 4] or None."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    shaken: NDArray[np.bool_]
    objects: NDArray[np.float64] | None


class SceneSampler:
    """Draws views of the pool's photos."""

    def __init__(self, pool: PhotoPool, rng: np.random.Generator) -> None:
        self.pool, self.rng = pool, rng
        self.named: list[list[tuple[Window, int]]] = [[] for _ in pool.scenes]
        for scene, box, label in pool.boxes:
            self.named[scene].append((box, label))

    def scene(self, side: int, count: int) -> View:
        """A window of a detection photo around a base box; up to `count` / 8 candidates are base boxes."""
        rng = self.rng
        photo, wanted, _ = self.pool.boxes[rng.choice(len(self.pool.boxes), p=self.pool.box_probability)]
        image = self.pool.scenes[photo]
        outer = around(wanted, window(*image.size, (0.2, 1.0), rng), image.size)
        pixels = image.resize((side, side), Image.Resampling.BILINEAR, box=outer)
        scale = side / np.array([outer[2] - outer[0], outer[3] - outer[1]] * 2)
        boxes, labels = [], []
        for box, label in self.named[photo]:
            shaken = (np.array(jittered(box, *image.size, rng)) - np.array(outer[:2] * 2)) * scale
            inside = shaken.clip(0, side)
            seen = inside[2:] - inside[:2]
            if seen.min() >= SMALLEST and seen.prod() >= VISIBLE * (shaken[2:] - shaken[:2]).prod():
                boxes.append(inside)
                labels.append(label)
        most = max(count // 8, 1)
        if len(boxes) > most:
            weight = np.array([self.pool.box_weight[label] for label in labels])
            keep = rng.choice(len(boxes), most, replace=False, p=weight / weight.sum())
            boxes = [boxes[i] for i in keep]
        named = len(boxes)
        boxes += [self.free(side) for _ in range(count - named)]
        objects = self.objects(photo, outer)
        placed = np.stack(boxes)
        if rng.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            placed = np.stack([side - placed[:, 2], placed[:, 1], side - placed[:, 0], placed[:, 3]], 1)
            objects[:, 0] = 1 - objects[:, 0]
        return View(np.asarray(pixels), placed, np.arange(count) < named, objects)

    def free(self, side: int) -> NDArray[np.float64]:
        """A window of any size, small ones as often as large ones."""
        share = float(np.exp(self.rng.uniform(np.log(0.01), 0)))
        return np.array(window(side, side, (share * 0.99, share), self.rng))

    def mosaic(self, side: int, count: int) -> View:
        """Four windows of single-object photos; the candidates are windows of each."""
        half, tiles, boxes = side // 2, [], []
        for corner in range(4):
            image = self.pool.photos[self.rng.integers(len(self.pool.photos))]
            outer = window(*image.size, (0.4, 1.0), self.rng)
            tile = image.resize((half, half), Image.Resampling.BILINEAR, box=outer)
            if self.rng.random() < 0.5:
                tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            tiles.append(np.asarray(tile))
            corners = np.array([corner % 2, corner // 2] * 2) * half
            boxes += [np.array(window(half, half, (0.15, 1.0), self.rng)) + corners for _ in range(count // 4)]
        rows = [np.concatenate(tiles[i : i + 2], 1) for i in (0, 2)]
        return View(np.concatenate(rows), np.stack(boxes), np.zeros(len(boxes), bool), None)

    def objects(self, photo: int, outer: Window) -> NDArray[np.float64]:
        """Base objects [m, 4] of a photo in its window `outer`, cxcywh in 0..1 of it."""
        sides = np.array([outer[2] - outer[0], outer[3] - outer[1]])
        corners = np.array(self.pool.objects[photo]).reshape(-1, 2, 2) - np.array(outer[:2])
        inside = corners.clip(0, sides)
        seen, whole = inside[:, 1] - inside[:, 0], corners[:, 1] - corners[:, 0]
        shown = seen.min(1) >= OBJECT_SMALLEST * sides.max() / NOMINAL_SIDE
        inside = (inside / sides)[shown & (seen.prod(1) >= OBJECT_VISIBLE * whole.prod(1))]
        return np.concatenate([inside.mean(1), inside[:, 1] - inside[:, 0]], 1)


def around(box: tuple[float, ...], outer: tuple[float, ...], size: tuple[int, int]) -> Window:
    """Shift (and where needed grow) a window so that it holds the box."""
    sides = []
    for low, high, length in ((0, 2, size[0]), (1, 3, size[1])):
        extent = min(max(outer[high] - outer[low], box[high] - box[low]), length)
        start = min(max(outer[low], box[high] - extent), box[low])
        sides.append((min(max(start, 0), length - extent), extent))
    (x, w), (y, h) = sides
    return x, y, x + w, y + h


def scene_batches(pool: PhotoPool, *, side: int, batch: int, candidates: int, seed: int) -> Iterator[SceneBatch]:
    """Endless batches of scenes of 3/4 to 5/4 `side`."""
    rng = np.random.default_rng(seed)
    sampler = SceneSampler(pool, rng)

    def make() -> SceneBatch:
        grown = int(rng.integers(side * 3 // 4, side * 5 // 4 + 1) // 64 * 64)
        mosaics = int(batch * MOSAICS + rng.random())
        views = [sampler.scene(grown, candidates) for _ in range(batch - mosaics)]
        views += [sampler.mosaic(grown, candidates) for _ in range(mosaics)]
        scenes = torch.from_numpy(np.stack([v.pixels for v in views])).permute(0, 3, 1, 2).float().div_(255)
        return SceneBatch(
            scenes=colour_jitter(scenes, rng),
            boxes=[torch.from_numpy(v.boxes).float() for v in views],
            shaken=[torch.from_numpy(v.shaken) for v in views],
            objects=[None if v.objects is None else torch.from_numpy(v.objects).float() for v in views],
        )

    return ahead(make)
