"""A whole detector of toy size in a file: random weights, everything else real."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.detector import Detector, DetectorConfig
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a detector that boxes whatever its random weights like."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    tower = TowerConfig(
        layers=(1, 1, 1, 2),
        width=8,
        image_size=64,
        embed_dim=16,
        text_width=16,
        text_heads=2,
        text_layers=1,
        templates="plain",
    )
    localizer = LocalizerConfig(
        c3_channels=128, embed_dim=16, dim=16, heads=2, ff=16, enc_layers=1, dec_layers=1, num_queries=20
    )
    preprocess = PreprocessConfig(short_side=96, long_side=160)
    config = DetectorConfig(tower=tower, localizer=localizer, preprocess=preprocess, fast_alignment=True)
    path = folder / "tiny.safetensors"
    Detector.build(config, cache_dir=folder).save(path)
    return path


@pytest.fixture(scope="session")
def boxed_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images/`, `annotations.json` (10 photos, boxes of three colours) and `split.json`."""
    folder = tmp_path_factory.mktemp("boxed")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    colours = {"red square": (200, 30, 30), "green square": (30, 180, 40), "blue square": (30, 40, 200)}
    annotations = []
    for number in range(10):
        photo = Image.new("RGB", (120, 90), (128, 128, 128))
        for label in (number % 3, (number + 1) % 3):
            x, y, w, h = (int(v) for v in (*random.integers(0, 50, size=2), *random.integers(20, 40, size=2)))
            photo.paste(list(colours.values())[label], (x, y, x + w, y + h))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": [x, y, w, h]}
            )
        photo.save(folder / "images" / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 120, "height": 90} for n in range(10)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(colours, start=1)],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    split = {"base": ["red square", "green square"], "novel": ["blue square"]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder
