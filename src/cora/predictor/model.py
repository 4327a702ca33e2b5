"""What a `Predictor` runs: the interface `Model`, and a network in PyTorch; `cora.export` implements it for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from cora.detector import Detector, DetectorConfig, DetectorOutput, Seen
from cora.detector.postprocess import Found, suppress
from cora.errors import ModelError
from cora.images import Preprocessor
from cora.predictor.exemplars import exemplar_embeddings
from cora.predictor.precision import FastParts, scoring_all_boxes
from cora.predictor.settings import PredictSettings, VocabularySettings
from cora.predictor.vocabulary import build_vocabulary
from cora.regions import ClassPrompts, Vocabulary, VocabularyEncoder
from cora.structures import ImageBatch
from cora.towers.folding import Precision


class Model(Protocol):
    """Interface: batches in, boxes out. `Predictor` reads images, encodes names and builds `Detections` around it."""

    @property
    def config(self) -> DetectorConfig:
        """Sizes and settings of the network."""

    @property
    def preprocessor(self) -> Preprocessor:
        """Turns images into batches, unless the predictor has its own."""

    @property
    def device(self) -> torch.device:
        """Device of batches and vocabularies."""

    @property
    def precision(self) -> Precision:
        """Default precision, unless the predictor or a call sets another."""

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """Embeds class names."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that were fixed when the model was made; empty where names are given at run time."""

    @property
    def fixed_distractors(self) -> int | None:
        """Number of distractors, if they were fixed together with the class names; else None."""

    @property
    def fixed_max_detections(self) -> int | None:
        """Most boxes per image, if that was fixed when the model was made; else None."""

    def vocabulary(
        self, classes: ClassPrompts | Vocabulary, settings: VocabularySettings, preprocessor: Preprocessor
    ) -> Vocabulary:
        """Encode class names, exemplars and distractors; if the model's names are fixed, select from them."""

    def run(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> Any:
        """One forward pass, without suppression."""

    def detect(self, batch: ImageBatch, vocabulary: Vocabulary, settings: PredictSettings) -> list[Found]:
        """Boxes of each image after suppression; the settings must have score, precision and class_agnostic."""


class TorchModel:
    """A network in PyTorch. Predicting never changes it; other precisions run on copies.

    Args:
        detector: the network, in any mode, on any device.
    """

    class_names: tuple[str, ...] = ()
    fixed_distractors: int | None = None
    fixed_max_detections: int | None = None

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._fast = FastParts()

    @property
    def config(self) -> DetectorConfig:
        """Sizes and settings of the network."""
        return self.detector.config

    @property
    def preprocessor(self) -> Preprocessor:
        """The network's own preprocessor."""
        return self.detector.preprocessor

    @property
    def device(self) -> torch.device:
        """Device of the network's weights."""
        return self.detector.device

    @property
    def precision(self) -> Precision:
        """The network's default precision."""
        return self.detector.precision

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """Embeds class names with the network's text tower."""
        return self.detector.vocabulary_encoder

    def vocabulary(
        self, classes: ClassPrompts | Vocabulary, settings: VocabularySettings, preprocessor: Preprocessor
    ) -> Vocabulary:
        """Embed class names, exemplars and distractors, on the network's device."""
        self._check_weights()
        detector = self.detector
        embeddings = exemplar_embeddings(detector, settings.exemplars or {}, preprocessor=preprocessor)
        return build_vocabulary(
            classes,
            settings,
            encoder=detector.vocabulary_encoder,
            config=detector.config,
            exemplars=embeddings,
        ).to(detector.device)

    def run(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> Any:
        """One forward pass of the network itself, with gradients if they are enabled: a `DetectorOutput`."""
        return self.detector(batch, vocabulary, score_threshold=score_threshold)

    def detect(self, batch: ImageBatch, vocabulary: Vocabulary, settings: PredictSettings) -> list[Found]:
        """Boxes of each image after suppression, from a view of the network in the precision of the settings."""
        self._check_weights()
        view = (
            scoring_all_boxes(self.detector)
            if settings.score_all_boxes
            else self._fast.view(self.detector, settings.precision or self.precision)
        )
        output = view(batch.to(self.device), vocabulary, score_threshold=settings.score or 0.0)
        return self._suppress(output, batch.original_sizes, settings)

    def see(self, batch: ImageBatch, precision: Precision) -> Seen:
        """Run the part of the network that does not depend on class names."""
        self._check_weights()
        return self._fast.view(self.detector, precision).see(batch.to(self.device))

    def detect_in(
        self, seen: Seen, sizes_hw: Sequence[tuple[int, int]], vocabulary: Vocabulary, settings: PredictSettings
    ) -> list[Found]:
        """As `detect`, from the output of `see` for images of these sizes and with the same precision."""
        self._check_weights()
        view = self._fast.view(self.detector, settings.precision or self.precision)
        return self._suppress(view.detect(seen, vocabulary, score_threshold=settings.score or 0.0), sizes_hw, settings)

    def state(self, precision: Precision) -> object:
        """A value that changes if `see` would return something else in this precision."""
        return self._fast.state(self.detector, precision)

    def _suppress(
        self, output: DetectorOutput, sizes_hw: Sequence[tuple[int, int]], settings: PredictSettings
    ) -> list[Found]:
        return suppress(
            output.boxes_cxcywh,
            output.scores,
            sizes_hw,
            self.config.postprocess,
            score=settings.score,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
            class_agnostic=bool(settings.class_agnostic),
        )

    def _check_weights(self) -> None:
        dtype = self.detector.prompt.offset.dtype
        if dtype != torch.float32:
            name = str(dtype).removeprefix("torch.")
            raise ModelError(
                f"predict: expected a model with weights in float32, got {name}; call .float() on it, "
                "and choose with precision= what its layers run in"
            )
