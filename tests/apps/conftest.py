"""A detector without a network, so that the commands are tested by themselves."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

import cora
from cora.detector import DetectorConfig, PostprocessConfig
from cora.errors import ModelError, VocabularyError
from cora.structures import Detections


class FakeEncoder:
    def encode(self, names: Sequence[str]) -> None:
        for name in names:
            if len(name.split()) > 70:
                raise VocabularyError(f"expected a name of at most 77 tokens, got {name[:20]!r}...; shorten it")


class FakeVocabulary(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.names)


class FakeDetector:
    """Finds the first class in the left half of every image that is not black, with a score of 0.8."""

    #: What the last `vocabulary` and `predict` were given.
    distractors: Sequence[str] | None = None
    options: ClassVar[dict[str, object]] = {}

    #: What the model file says of scores and distractors.
    postprocess: ClassVar[PostprocessConfig] = PostprocessConfig()

    def __init__(self) -> None:
        self.vocabulary_encoder, self.model = FakeEncoder(), object()
        self.config = DetectorConfig(postprocess=FakeDetector.postprocess)

    def to(self, device: torch.device) -> "FakeDetector":
        return self

    def score_of(self, asked: float | None, *, built_in: bool) -> float:
        own = self.config.postprocess
        usual = own.builtin_threshold if built_in else own.score_threshold
        return usual if asked is None else asked

    def vocabulary(
        self, classes: Sequence[str] | None, *, distractors: Sequence[str] | None, **options: object
    ) -> FakeVocabulary:
        names = ("cup", "dog") if classes is None else tuple(classes)
        for wanted in (names, distractors or ()):
            self.vocabulary_encoder.encode(wanted)
        FakeDetector.distractors = distractors
        return FakeVocabulary(names=names, built_in=classes is None)

    def predict(self, image: Image.Image, classes: Any, *, score: float, **options: object) -> Detections:
        FakeDetector.options = options
        found = int(score < 0.8 and image.convert("L").getextrema()[1] > 0)
        return Detections(
            boxes_xyxy_px=torch.tensor([[0.0, 0.0, image.width / 2, image.height]])[:found],
            scores=torch.tensor([0.8])[:found],
            labels=torch.zeros(found, dtype=torch.int64),
            class_names=classes.names,
            image_size=(image.height, image.width),
            image=image,
        )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces `cora.load`; the list holds the names it was called with."""
    names: list[str] = []

    def load(name: str) -> FakeDetector:
        if name != "nano":
            raise ModelError(f"unknown model {name!r}: expected one of nano")
        names.append(name)
        return FakeDetector()

    monkeypatch.setitem(vars(cora), "load", load)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two images in `images`, one of them black."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60), "white").save("photos/white.jpg")
    Image.new("RGB", (40, 60)).save("photos/black.png")
    return tmp_path
