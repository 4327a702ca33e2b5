"""Endless crops of few photos: what the patient teacher and the student look at.

Three sources, in the shares `SHARES`: single-object photos, base-class boxes with jitter, and free windows of the
detection photos (they hold unnamed things). Boxes that the recipe reads are those of base classes only.
"""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

T = TypeVar("T")
SHARES = {"photo": 0.40, "box": 0.35, "window": 0.25}


@dataclass(frozen=True)
class CropBatch:
    """Pixels [n, 3, size, size] in 0..1 and base-class labels [n] (-1 where there is none)."""

    pixels: Tensor
    labels: Tensor


class PhotoPool:
    """All training photos, decoded once and kept in memory (about 1.2 GB), with the boxes of base classes."""

    def __init__(self, kit: Path) -> None:
        self.photos = [Image.open(p).convert("RGB") for p in sorted((kit / "photos_1k").glob("*.jpg"))]
        coco = json.loads((kit / "coco_ovd_mini" / "train_base.json").read_text())
        self.class_names = json.loads((kit / "coco_ovd_mini" / "class_split.json").read_text())["base"]
        names = {c["id"]: c["name"] for c in coco["categories"]}
        index = {image["id"]: i for i, image in enumerate(coco["images"])}
        folder = kit / "coco_ovd_mini" / "train"
        self.scenes = [Image.open(folder / image["file_name"]).convert("RGB") for image in coco["images"]]
        self.boxes: list[tuple[int, tuple[float, float, float, float], int]] = []
        #: All base boxes of every detection photo, small ones too: what the tower's maps should show the ends of.
        self.objects: list[list[tuple[float, float, float, float]]] = [[] for _ in self.scenes]
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            if not a.get("iscrowd", 0):
                self.objects[index[a["image_id"]]].append((x, y, x + w, y + h))
            if not a.get("iscrowd", 0) and min(w, h) >= 16:
                label = self.class_names.index(names[a["category_id"]])
                self.boxes.append((index[a["image_id"]], (x, y, x + w, y + h), label))
        frequency = Counter(label for _, _, label in self.boxes)
        weights = np.array([frequency[label] ** -0.5 for _, _, label in self.boxes])
        self.box_probability = weights / weights.sum()  # classes by the square root of their frequency


def jittered(box: tuple[float, ...], width: int, height: int, rng: np.random.Generator) -> tuple[float, ...]:
    """A box enlarged by 0.9 to 1.5 and shifted by up to a tenth, inside the picture."""
    x0, y0, x1, y1 = box
    w, h = (x1 - x0) * rng.uniform(0.9, 1.5), (y1 - y0) * rng.uniform(0.9, 1.5)
    cx = (x0 + x1) / 2 + rng.uniform(-0.1, 0.1) * (x1 - x0)
    cy = (y0 + y1) / 2 + rng.uniform(-0.1, 0.1) * (y1 - y0)
    return max(cx - w / 2, 0), max(cy - h / 2, 0), min(cx + w / 2, width), min(cy + h / 2, height)


def window(width: int, height: int, area: tuple[float, float], rng: np.random.Generator) -> tuple[float, ...]:
    """A random window that covers a share of the picture between the two of `area`."""
    side = np.sqrt(rng.uniform(*area) * width * height)
    aspect = np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    w, h = min(side * np.sqrt(aspect), width), min(side / np.sqrt(aspect), height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return x, y, x + w, y + h


def one_crop(pool: PhotoPool, size: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One crop [size, size, 3] uint8 and its base label, or -1."""
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    label = -1
    if kind == "photo":
        image = pool.photos[rng.integers(len(pool.photos))]
        box = window(*image.size, (0.25, 1.0), rng)
    elif kind == "box":
        scene, box, label = pool.boxes[rng.choice(len(pool.boxes), p=pool.box_probability)]
        image = pool.scenes[scene]
        box = jittered(box, *image.size, rng)
    else:
        image = pool.scenes[rng.integers(len(pool.scenes))]
        box = window(*image.size, (0.02, 0.6), rng)
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop), label


def colour_jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors of 0.7 to 1.3, one draw an image; values stay in 0..1."""
    n = len(pixels)
    b, c, s = (torch.from_numpy(rng.uniform(0.7, 1.3, (n, 1, 1, 1)).astype(np.float32)) for _ in range(3))
    pixels = pixels * b
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * c + mean
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * s + grey).clamp_(0, 1)


def mix(batch: CropBatch, share: float, rng: np.random.Generator) -> CropBatch:
    """Mixup on a share of the batch; a mixed picture has no base label."""
    n = int(len(batch.labels) * share)
    if n == 0:
        return batch
    pixels, labels = batch.pixels.clone(), batch.labels.clone()
    weight = torch.from_numpy(rng.beta(1.0, 1.0, (n, 1, 1, 1)).astype(np.float32))
    partner = torch.from_numpy(rng.permutation(len(labels))[:n])
    pixels[:n] = weight * batch.pixels[:n] + (1 - weight) * batch.pixels[partner]
    labels[:n] = -1
    return CropBatch(pixels, labels)


def crop_batches(pool: PhotoPool, *, size: int, batch: int, mixup: float, seed: int) -> Iterator[CropBatch]:
    """Endless batches, prepared by a thread a few ahead of the training."""
    rng = np.random.default_rng(seed)

    def make() -> CropBatch:
        crops, labels = zip(*(one_crop(pool, size, rng) for _ in range(batch)), strict=True)
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255)
        return mix(CropBatch(colour_jitter(pixels, rng), torch.tensor(labels)), mixup, rng)

    return ahead(make)


def ahead(make: Callable[[], T], depth: int = 4) -> Iterator[T]:
    """What `make` gives, again and again, computed by a thread up to `depth` items ahead."""
    ready: queue.Queue[T] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            item = make()
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        while True:
            yield ready.get()
    finally:
        # A thread inside torch while the interpreter ends would abort the process.
        stop.set()
        thread.join()
