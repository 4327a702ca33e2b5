"""A network with random weights, small enough for every test."""

from pathlib import Path

import pytest

from cora.detector import Detector
from cora.predictor import Predictor
from tests.detector.conftest import tiny_detector


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")


@pytest.fixture
def predictor(detector: Detector) -> Predictor:
    return Predictor(detector)
