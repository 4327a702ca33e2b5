"""TIFF files are upright and have the size that their header promises, however they are stored and opened."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cora.images import read_image, read_size

GREY = np.random.default_rng(0).integers(64, 256, (12, 20), dtype=np.uint8)
#: What turns the stored rows upright, by EXIF's number.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}
STORED = {
    "grey": Image.fromarray(GREY),
    "16 bits": Image.fromarray(GREY.astype(np.uint16) * 257),
    "floats": Image.fromarray(GREY.astype(np.float32)),
    "colours": Image.fromarray(np.repeat(GREY[:, :, None], 3, axis=2)),
    "with alpha": Image.fromarray(np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])),
}


def opened(path: Path, way: str) -> object:
    if way == "Pillow image":
        return Image.open(path)
    return {"path": path, "bytes": path.read_bytes(), "open file": io.BytesIO(path.read_bytes())}[way]


@pytest.mark.parametrize("way", ["path", "bytes", "open file", "Pillow image"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("kind", STORED)
def test_upright(tmp_path: Path, kind: str, compression: str | None, way: str) -> None:
    path = tmp_path / "a.tif"
    for number, turn in UPRIGHT.items():
        STORED[kind].save(path, tiffinfo={274: number}, compression=compression)
        read = np.asarray(read_image(opened(path, way)))  # type: ignore[arg-type]
        expected = turn(GREY)
        assert read.shape[:2] == expected.shape == read_size(path), number
        assert np.abs(read[:, :, 1].astype(int) - expected).max() <= 1, number
