"""The kit's training photos in memory, with the boxes of base classes (no others are read); ways to shake them."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

T = TypeVar("T")


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
        #: Of each base class: count^-0.5, so that a class is drawn by the square root of its frequency.
        self.box_weight = {label: count**-0.5 for label, count in frequency.items()}
        weights = np.array([self.box_weight[label] for _, _, label in self.boxes])
        self.box_probability = weights / weights.sum()


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


def colour_jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors of 0.7 to 1.3, one draw an image; values stay in 0..1."""
    n = len(pixels)
    b, c, s = (torch.from_numpy(rng.uniform(0.7, 1.3, (n, 1, 1, 1)).astype(np.float32)) for _ in range(3))
    pixels = pixels * b
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * c + mean
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * s + grey).clamp_(0, 1)


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
