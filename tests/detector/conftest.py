"""A detector with random weights, small enough for every test."""

from pathlib import Path

import pytest
import torch

from cora.detector import Detector, DetectorConfig, config_for_tower
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig


def tiny_config() -> DetectorConfig:
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
    )
    localizer = LocalizerConfig(dim=32, heads=2, ff=32, enc_layers=1, dec_layers=2, num_queries=12, class_hidden=16)
    config = config_for_tower(tower, localizer)
    return DetectorConfig(
        tower=config.tower,
        localizer=config.localizer,
        preprocess=PreprocessConfig(short_side=64, long_side=128),
        postprocess=config.postprocess,
    )


def tiny_detector(cache_dir: Path, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    detector = Detector.build(tiny_config(), cache_dir=cache_dir)
    with torch.no_grad():
        for name, value in detector.image_tower.named_parameters():
            if name.endswith("bn3.weight"):  # zero in a fresh tower: every image would look the same
                value.fill_(1.0)
    return detector.eval()


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")
