import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.data.loader import seeded
from cora.data.transforms import AugmentConfig, ResizeTransform, TrainTransform
from cora.errors import DataError
from cora.images import Preprocessor
from cora.structures import Targets

CONFIG = AugmentConfig(
    short_sides=(48, 64, 80),
    long_side=120,
    crop=0.7,
    crop_short_sides=(60, 70),
    crop_sides=(40, 70),
    min_box_side=2.0,
)


def photo_with_block(width: int, height: int, box: tuple[int, int, int, int]) -> tuple[Image.Image, Targets]:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    cxcywh = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return Image.fromarray(pixels), Targets(boxes_cxcywh=torch.tensor([cxcywh]), classes=torch.tensor([4]))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 160),
    height=st.integers(60, 160),
    corner=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    side=st.tuples(st.floats(0.15, 0.4), st.floats(0.15, 0.4)),
    seed=st.integers(0, 10_000),
)
def test_boxes_stay_on_their_objects(
    width: int, height: int, corner: tuple[float, float], side: tuple[float, float], seed: int
) -> None:
    x0, y0 = round(corner[0] * width), round(corner[1] * height)
    box = (x0, y0, x0 + round(side[0] * width), y0 + round(side[1] * height))
    with seeded(seed):
        image, targets = TrainTransform(config=CONFIG)(*photo_with_block(width, height, box))
    assert max(image.size) <= CONFIG.long_side
    bright = np.asarray(image.convert("L")) > 127
    if len(targets) == 0:
        assert bright.sum(axis=0).max() <= 4 or bright.sum(axis=1).max() <= 4  # cropped to a sliver or away
        return
    assert targets.classes.tolist() == [4]
    cx, cy, w, h = (targets.boxes_cxcywh[0] * torch.tensor([*image.size, *image.size])).tolist()
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    expected = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    assert np.abs(seen - expected).max() <= 2.0  # interpolation blurs one pixel of the source, up to 1.4 of the result


def test_flip_mirrors_boxes() -> None:
    config = AugmentConfig(short_sides=(60,), long_side=100, flip=1.0, crop=0.0)
    _, targets = TrainTransform(config=config)(*photo_with_block(100, 60, (0, 0, 20, 30)))
    torch.testing.assert_close(targets.boxes_cxcywh, torch.tensor([[0.9, 0.25, 0.2, 0.5]]))


def test_crop_removes_boxes_that_are_mostly_outside() -> None:
    config = AugmentConfig(
        short_sides=(50,),
        long_side=500,
        flip=0.0,
        crop=1.0,
        crop_short_sides=(100,),
        crop_sides=(50, 50),
        min_visible=0.99,
    )
    kept = 0
    for seed in range(20):
        with seeded(seed):
            _, targets = TrainTransform(config=config)(*photo_with_block(100, 100, (30, 30, 60, 60)))
        kept += len(targets)
        if len(targets):  # whole inside: keeps its size in pixels, here 30 of 50
            torch.testing.assert_close(targets.boxes_cxcywh[0, 2:], torch.tensor([0.6, 0.6]), atol=1e-4, rtol=0)
    assert 0 < kept < 20


def test_photos_without_boxes_pass() -> None:
    empty = Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
    _, targets = TrainTransform(config=CONFIG)(Image.new("RGB", (90, 70)), empty)
    assert targets.boxes_cxcywh.shape == (0, 4)


def test_resize_keeps_fractions_and_bounds_the_long_side() -> None:
    photo, targets = photo_with_block(200, 50, (20, 10, 60, 40))
    image, resized = ResizeTransform(preprocessor=Preprocessor(short_side=40, long_side=100))(photo, targets)
    assert image.size == (100, 32)  # 100x25, widened to what a tower needs
    torch.testing.assert_close(resized.boxes_cxcywh, targets.boxes_cxcywh)


@pytest.mark.parametrize(
    "preprocessor",
    [Preprocessor(short_side=40, long_side=66), Preprocessor(short_side=64, long_side=64, multiple=32, whole=True)],
)
def test_resize_gives_the_sizes_of_the_preprocessor(preprocessor: Preprocessor) -> None:
    targets = Targets(boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.4, 0.4]]), classes=torch.tensor([0]))
    transform = ResizeTransform(preprocessor=preprocessor)
    for height in range(30, 130, 7):
        for width in range(30, 130, 9):
            image, resized = transform(Image.new("RGB", (width, height)), targets)
            assert (image.height, image.width) == preprocessor.resized_size(height, width)
            torch.testing.assert_close(resized.boxes_cxcywh, targets.boxes_cxcywh)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="short_sides must lie"):
        AugmentConfig(short_sides=(900,), long_side=800)
    with pytest.raises(DataError, match=r"flip must lie in 0\.\.1"):
        AugmentConfig(flip=1.5)
