"""What the tests of the training tasks share: a detector of toy size and a vocabulary without a text tower."""

from pathlib import Path

import pytest
import torch

from cora.detector import Detector
from cora.regions import Vocabulary
from tests import toys

CLASSES = 5


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """Random weights; no dropout, so that runs can be compared."""
    config = toys.toy_config(
        tower={"width": 4, "context_length": 8, "vocab_size": 600},
        localizer={"dec_layers": 2, "num_queries": 12, "dropout": 0.0},
    )
    return toys.toy_detector(config, tmp_path).train()


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Names with random unit embeddings."""
    embeddings = torch.nn.functional.normalize(torch.randn(CLASSES, 16), dim=-1)
    return Vocabulary(tuple(f"class {i}" for i in range(CLASSES)), embeddings)
