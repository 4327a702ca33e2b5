"""A whole detector of toy size in a file: random weights, everything else real."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cora.images import PreprocessConfig
from tests import toys


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a detector that boxes whatever its random weights like."""
    folder = tmp_path_factory.mktemp("tiny")
    config = toys.toy_config(
        tower={"layers": (1, 1, 1, 2)},
        preprocess=PreprocessConfig(short_side=96, long_side=160),
        fast_alignment=True,
    )
    path = folder / "tiny.safetensors"
    toys.toy_detector(config, folder, seed=1).save(path)
    return path


@pytest.fixture(scope="session")
def boxed_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images/`, `annotations.json` (10 images, boxes of three colours) and `split.json`."""
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
