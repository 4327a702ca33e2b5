"""Images, and a stand-in for the network whose regions follow from the pixels."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cora.retrieval.manifest import Manifest, RegionSettings
from cora.retrieval.regions import Regions
from cora.retrieval.store import RegionStore

WIDTH = 8


def write_picture(path: Path, seed: int, size: tuple[int, int] = (48, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def regions(seed: int, count: int = 3, width: int = WIDTH) -> Regions:
    """Random regions, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=generator) * 10
    corners[:, 2:] += 12
    return Regions(
        boxes_xyxy_px=corners,
        scores=torch.rand(count, generator=generator),
        labels=[None] * count,
        embeddings=F.normalize(torch.randn(count, width, generator=generator), dim=-1),
    )


class Finder:
    """Three regions an image; counts the images that it was shown."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: Image.Image) -> Regions:
        self.calls += 1
        return regions(int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:4], "big"))


def manifest(folder: Path) -> Manifest:
    return Manifest(model="0" * 16, model_name="toy", width=WIDTH, folder=str(folder), settings=RegionSettings())


@pytest.fixture
def finder() -> Finder:
    return Finder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them a level down."""
    place = tmp_path / "photos"
    for seed, name in enumerate(("a.png", "b.png", "deeper/c.png")):
        write_picture(place / name, seed)
    return place


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> RegionStore:
    """An empty index of the folder."""
    return RegionStore.create(tmp_path / "index", manifest(folder))
