"""A detector with random weights whose boxes differ, and what is made of it once for many tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cora.detector import Detector, DetectorConfig, PostprocessConfig
from cora.export import ExportSettings, Manifest, export_detector
from cora.export.write import describe
from cora.images import PreprocessConfig
from cora.regions import Vocabulary
from tests import toys

NAMES = ("cat", "dog", "house")


def toy_config(**localizer: object) -> DetectorConfig:
    tower = {"embed_dim": 32, "text_width": 32, "text_heads": 1, "context_length": 16, "vocab_size": 1000}
    return toys.toy_config(
        tower={**tower, "logit_scale": 10.0},  # every name is found somewhere
        localizer={"dim": 32, "ff": 32, "class_hidden": 16, **localizer},
        preprocess=PreprocessConfig(short_side=160, long_side=224),
        postprocess=PostprocessConfig(max_scored_boxes=12, exact_boxes=0, min_score=1e-4, nms_iou=0.4),
    )


def toy_detector(cache_dir: Path, config: DetectorConfig | None = None) -> Detector:
    return toys.toy_detector(config or toy_config(), cache_dir, residual=1.0, heads=0.3)


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
