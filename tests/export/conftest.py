"""A detector with random weights whose boxes differ, and what is made of it once for many tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.detector import Detector, DetectorConfig, PostprocessConfig, config_for_tower
from cora.export import ExportSettings, Manifest, export_detector
from cora.export.write import describe
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.regions import Vocabulary
from cora.towers import TowerConfig

NAMES = ("cat", "dog", "house")


def toy_config(**localizer: object) -> DetectorConfig:
    tower = TowerConfig(
        layers=(1, 1, 1, 1),
        width=8,
        image_size=64,
        embed_dim=32,
        text_width=32,
        text_heads=1,
        text_layers=1,
        context_length=16,
        vocab_size=1000,
        templates="plain",
        logit_scale=10.0,  # every name is found somewhere
    )
    sizes = {"dim": 32, "heads": 2, "ff": 32, "enc_layers": 1, "dec_layers": 1, "num_queries": 20, "class_hidden": 16}
    config = config_for_tower(tower, LocalizerConfig(**(sizes | localizer)))  # type: ignore[arg-type]
    return replace(
        config,
        preprocess=PreprocessConfig(short_side=160, long_side=224),
        postprocess=PostprocessConfig(max_scored_boxes=12, exact_boxes=0, min_score=1e-4, nms_iou=0.4),
    )


def toy_detector(cache_dir: Path, config: DetectorConfig | None = None) -> Detector:
    torch.manual_seed(0)
    detector = Detector.build(config or toy_config(), cache_dir=cache_dir)
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if name.endswith("bn3.weight"):  # zero in a fresh tower: every image would look the same
                value.fill_(1.0)
            if "box_heads" in name or name.startswith("localizer.objectness_head"):
                value.normal_(0, 0.3)  # zero in a fresh localizer: all boxes would be anchors
    return detector.eval()


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def manifest_of(detector: Detector, vocabulary: Vocabulary | None = None, **settings: object) -> Manifest:
    return describe(detector, model="toy", settings=ExportSettings(**settings), vocabulary=vocabulary)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return toy_detector(tmp_path_factory.mktemp("toy-cache"))


@pytest.fixture(scope="session")
def open_onnx(toy: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as ONNX with everything open: sizes, batch, vocabulary."""
    path = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    written = export_detector(toy, path, format="onnx", model="toy")
    assert written.difference.passes
    assert written.difference.off == 0
    return path
