"""Detectors of toy size, with enough of everything to remove some of it, and images of coloured squares."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cora.detector import Detector
from cora.images import PreprocessConfig
from tests import toys


def toy_detector(cache: Path, *, seed: int = 0, anchors: str = "learned", width: int = 8) -> Detector:
    config = toys.toy_config(
        tower={"layers": (1, 2, 2, 1), "width": width},
        localizer={
            "dim": 32,
            "heads": 4,
            "ff": 24,
            "enc_layers": 2,
            "dec_layers": 3,
            "anchors": anchors,
            "dropout": 0.0,
        },
        preprocess=PreprocessConfig(short_side=64, long_side=96),
    )
    detector = toys.toy_detector(config, cache, seed=seed, residual=0.5)
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if "box_heads" in name and name.endswith("layers.2.weight"):  # zero too: boxes would be anchors
                value.normal_(std=0.2)
            if name.endswith("objectness_head.weight"):
                value.normal_(std=0.5)
            if name.endswith("objectness_head.bias"):  # a prior of 0.01: nothing would be found
                value.zero_()
    return detector


NAMES = ("red square", "green square", "blue square")


def toy_pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    photos = []
    for _ in range(3):
        photo = Image.fromarray(random.integers(0, 255, size=(70, 90, 3), dtype=np.uint8))
        for colour in ("red", "green", "blue"):
            x, y = (int(v) for v in random.integers(0, 50, size=2))
            photo.paste(colour, (x, y, x + 25, y + 20))
        photos.append(photo)
    return photos
