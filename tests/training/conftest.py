"""What the tests of the training tasks share: a detector of toy size and a vocabulary without a text tower."""

from pathlib import Path

import pytest
import torch

from cora.detector import Detector, DetectorConfig
from cora.localizer import LocalizerConfig
from cora.regions import Vocabulary
from cora.towers import TowerConfig

CLASSES = 5


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """Random weights; no dropout, so that runs can be compared."""
    torch.manual_seed(0)
    tower = TowerConfig(
        layers=(1, 1, 1, 1),
        width=4,
        image_size=64,
        embed_dim=16,
        text_width=16,
        text_heads=2,
        text_layers=1,
        context_length=8,
        vocab_size=600,
        templates="plain",
    )
    localizer = LocalizerConfig(
        c3_channels=64, embed_dim=16, dim=16, heads=2, ff=16, enc_layers=1, dec_layers=2, num_queries=12, dropout=0.0
    )
    return Detector.build(DetectorConfig(tower=tower, localizer=localizer), cache_dir=tmp_path)


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Names with random unit embeddings."""
    embeddings = torch.nn.functional.normalize(torch.randn(CLASSES, 16), dim=-1)
    return Vocabulary(tuple(f"class {i}" for i in range(CLASSES)), embeddings)
