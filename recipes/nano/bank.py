"""What the teacher says of fixed regions of every photo, computed once: the region stage never runs the teacher.

    python recipes/nano/bank.py --kit ../shared/kit --out runs/nano/bank

Regions are base boxes with jitter and free windows of the detection photos, and windows of the single-object photos.
Half of the free windows are thrown away: those of which the teacher is least sure hold no object of their own.
Stored per region: box, photo, base label, ImageNet logits, and the stride-32 map in a 4 x 4 grid (ReLU6 in 8 bits).
The student sees the photos in ever new windows, sizes, mirrors and colours; only the targets are fixed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from crops import PhotoPool, jittered, window
from numpy.typing import NDArray
from PIL import Image
from teacher import MobileNetV2Teacher
from torch.multiprocessing import spawn
from torch.nn import functional as F

PARTS = ("boxes", "photo", "label", "sure", "logits", "maps")
BOXES, WINDOWS, PHOTO_WINDOWS, SIDE, GRID = 40, 64, 20, 160, 4


@dataclass(frozen=True)
class Bank:
    """boxes [N, 4] xyxy px of the photo, photo [N] (detection photos first), label [N] (-1: none), sure [N] (the
    teacher's highest probability), logits [N, 1000] float16, maps [N, 1280, 4, 4] uint8 (255 is 6.0)."""

    boxes: NDArray[np.float32]
    photo: NDArray[np.int64]
    label: NDArray[np.int64]
    sure: NDArray[np.float32]
    logits: NDArray[np.float16]
    maps: NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path) -> Bank:
        """Read the bank; the large arrays stay on disk and are shared by all processes."""
        return cls(*(np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS))


def candidates(pool: PhotoPool, photo: int, rng: np.random.Generator) -> list[tuple[tuple[float, ...], int]]:
    """Boxes and labels of one photo that the teacher is asked about."""
    if photo >= len(pool.scenes):
        size = pool.photos[photo - len(pool.scenes)].size
        return [(window(*size, (0.1, 1.0), rng), -1) for _ in range(PHOTO_WINDOWS)]
    size = pool.scenes[photo].size
    named = [(box, label) for scene, box, label in pool.boxes if scene == photo]
    times = min(3, max(1, BOXES // max(len(named), 1)))
    shaken = [(jittered(box, *size, rng), label) for box, label in named for _ in range(times)][:BOXES]
    return shaken + [(window(*size, (0.01, 0.7), rng), -1) for _ in range(WINDOWS)]


@torch.no_grad()
def _work(rank: int, world: int, kit: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    pool, rng = PhotoPool(kit), np.random.default_rng(rank)
    teacher = MobileNetV2Teacher(kit / "imagenet_teacher" / "mobilenet_v2_1.0_224_quant.tflite")
    teacher.to(memory_format=torch.channels_last)
    parts: list[list[NDArray[np.generic]]] = [[] for _ in PARTS]
    for photo in range(rank, len(pool.scenes) + len(pool.photos), world):
        image = [*pool.scenes, *pool.photos][photo]
        boxes, labels = zip(*candidates(pool, photo, rng), strict=True)
        crops = np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=b)) for b in boxes])
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = teacher.maps(pixels.contiguous(memory_format=torch.channels_last)).stride32.float()
        logits = teacher.logits(maps.mean((2, 3)))
        sure, label = logits.softmax(-1).amax(-1).numpy(), np.array(labels)
        free = label < 0
        keep = ~free | (photo >= len(pool.scenes)) | (sure >= np.median(sure[free]))
        cells = F.adaptive_avg_pool2d(maps, GRID).mul(255 / 6).round().clamp(0, 255).byte().numpy()
        values = (np.array(boxes, np.float32), np.full(len(boxes), photo), label, sure, logits.half().numpy(), cells)
        for part, value in zip(parts, values, strict=True):
            part.append(value[keep])
    for name, part in zip(PARTS, parts, strict=True):
        np.save(folder / f"{name}.{rank}.npy", np.concatenate(part))


def build(kit: Path, folder: Path, processes: int) -> None:
    """Ask the teacher in `processes` processes and join what they wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    spawn(_work, (processes, kit, folder), nprocs=processes)
    for name in PARTS:
        files = [folder / f"{name}.{rank}.npy" for rank in range(processes)]
        np.save(folder / f"{name}.npy", np.concatenate([np.load(f) for f in files]))
        for f in files:
            f.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/nano/bank"))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    build(arguments.kit, arguments.out, arguments.processes)
    print(f"{len(Bank.open(arguments.out).label)} regions")
