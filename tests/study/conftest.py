"""Frozen towers of toy size, both kinds, and images with coloured boxes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.images import PreprocessConfig, Preprocessor
from cora.regions import VocabularyEncoder
from cora.study.build import FrozenPart
from cora.study.config import ModelPart, StudyConfig, TowerPart, TrainPart
from cora.towers.surgery import ResNetSurgery
from cora.towers.vit_tower import build_vit
from tests import toys

COLOURS = {"red square": (200, 30, 30), "green square": (30, 180, 40), "blue square": (30, 40, 200)}
TEXT = {"context_length": 12, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}

CONFIG = StudyConfig(
    tower=TowerPart(image_size=(64, 96), layers=1),
    model=ModelPart(cam_resolution=(6, 9), image_channels=8, hidden=8),
    train=TrainPart(epochs=2, batch=3, lr=3e-3, versions=2),
)


@pytest.fixture
def detector() -> Detector:
    config = toys.toy_config(
        tower={"layers": (1, 1, 1, 2), "width": 4, "context_length": 12, "vocab_size": 600},
        localizer={"num_queries": 12, "dropout": 0.0},
        preprocess=PreprocessConfig(short_side=64, long_side=128),
    )
    return toys.toy_detector(config)


@pytest.fixture(params=["resnet", "vit"])
def frozen(request: pytest.FixtureRequest, detector: Detector) -> FrozenPart:
    if request.param == "resnet":
        return FrozenPart(
            tower=ResNetSurgery(tower=detector.image_tower, layers=1),
            vocabulary_encoder=detector.vocabulary_encoder,
            preprocessor=detector.preprocessor,
        )
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 6, "width": 64, "patch_size": 16}
    tower, text_tower = build_vit(vision=vision, text=TEXT, embed_dim=16, quick_gelu=False)
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    return FrozenPart(tower=tower, vocabulary_encoder=encoder, preprocessor=Preprocessor())


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Seven images of 80 x 60 pixels with two boxes each, the last with none."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    annotations = []
    for number in range(7):
        photo = Image.new("RGB", (80, 60), (128, 128, 128))
        for label in () if number == 6 else (number % 3, (number + 1) % 3):
            x, y, w, h = (int(v) for v in (*random.integers(0, 35, size=2), *random.integers(12, 25, size=2)))
            photo.paste(list(COLOURS.values())[label], (x, y, x + w, y + h))
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": [x, y, w, h]}
            annotations.append(entry)
        photo.save(folder / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in range(7)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(COLOURS, start=1)],
    }
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(content))
    return CocoDataset(annotations=file, images=folder)
