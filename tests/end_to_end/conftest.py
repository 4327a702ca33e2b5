"""A whole detector of toy size in a file: random weights, everything else real."""

from pathlib import Path

import pytest
import torch

from cora.detector import Detector, DetectorConfig
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a detector that boxes whatever its random weights like."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tower = TowerConfig(
        layers=(1, 1, 1, 1),
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
    config = DetectorConfig(tower=tower, localizer=localizer, preprocess=preprocess)
    path = folder / "tiny.safetensors"
    Detector.build(config, cache_dir=folder).save(path)
    return path
