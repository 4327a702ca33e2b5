"""A detector without a network: it boxes what is white, and wavers about what that is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cora.apps import open_model
from cora.detector import DetectorConfig
from cora.errors import VocabularyError
from cora.images import read_image
from cora.structures import Detections


class FakeVocabulary:
    def __init__(self, names: Sequence[str] | None) -> None:
        self.names, self.built_in = ("cup", "dog") if names is None else tuple(names), names is None

    def __len__(self) -> int:
        return len(self.names)


class FakeDetector:
    """Finds what is white; its best class is the first in two of three images, the second in the others."""

    def __init__(self) -> None:
        self.calls = 0
        self.encoded = 0
        self.asked: list[dict[str, Any]] = []
        self.vocabulary_encoder = object()
        self.config = DetectorConfig()

    def score_of(self, asked: float | None, *, built_in: bool) -> float:
        own = self.config.postprocess
        usual = own.builtin_threshold if built_in else own.score_threshold
        return usual if asked is None else asked

    def vocabulary(self, classes: Sequence[str] | None, **options: Any) -> FakeVocabulary:
        if any(len(name) > 300 for name in classes or ()):
            raise VocabularyError("expected a name of at most 77 tokens, got more; shorten it")
        self.encoded += 1
        self.asked.append(options)
        return FakeVocabulary(None if classes is None else tuple(classes))

    def predict(self, picture: Any, vocabulary: FakeVocabulary, **options: Any) -> Detections:
        self.calls += 1
        self.asked.append(options)
        image = read_image(picture)
        white = np.asarray(image).min(axis=2) > 150
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        wavering = self.calls % 3 == 0 and len(vocabulary) > 1
        found = min(len(rows), len(vocabulary), 2)
        box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]] if found else []
        return Detections(
            boxes_xyxy_px=torch.tensor(box * found, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([0.6, 0.5])[:found],
            labels=torch.tensor([1, 0] if wavering else [0, 1])[:found],
            class_names=vocabulary.names,
            image_size=(image.height, image.width),
        )


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, detector: FakeDetector) -> FakeDetector:
    """What `cora video` gets for every model."""

    def open_detector(model: str, device: str, *, text_model: str | None = None) -> FakeDetector:
        return detector

    monkeypatch.setattr(open_model, "open_detector", open_detector)
    return detector


@pytest.fixture
def white() -> Image.Image:
    return Image.new("RGB", (64, 48), "white")
