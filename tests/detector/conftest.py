"""A detector with random weights, small enough for every test."""

from pathlib import Path

import pytest

from cora.detector import Detector, DetectorConfig
from cora.images import PreprocessConfig
from tests import toys


def tiny_config() -> DetectorConfig:
    return toys.toy_config(
        tower={"embed_dim": 32, "text_width": 32, "text_heads": 1, "context_length": 16, "vocab_size": 1000},
        localizer={"dim": 32, "ff": 32, "dec_layers": 2, "num_queries": 12, "class_hidden": 16},
        preprocess=PreprocessConfig(short_side=64, long_side=128),
    )


def tiny_detector(cache_dir: Path, seed: int = 0) -> Detector:
    return toys.toy_detector(tiny_config(), cache_dir, seed=seed, residual=1.0)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")
