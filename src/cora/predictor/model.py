"""What a predictor runs: one protocol, and the network in PyTorch; an exported file is the other kind."""

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
    """Batches in, boxes out. A `Predictor` does everything around it."""

    @property
    def config(self) -> DetectorConfig:
        """Sizes and settings of the network."""

    @property
    def preprocessor(self) -> Preprocessor:
        """How images become batches, unless a predictor has its own way."""

    @property
    def device(self) -> torch.device:
        """Where batches and vocabularies belong."""

    @property
    def precision(self) -> Precision:
        """Type that it runs in, unless a predictor says otherwise."""

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """What embeds names."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that were fixed when the model was made; empty where names are given at run time."""

    @property
    def fixed_distractors(self) -> int | None:
        """Number of names that compete whatever is asked, where they were fixed with the names; else None."""

    @property
    def fixed_max_detections(self) -> int | None:
        """Boxes that an image can have at most, where that was fixed when the model was made; else None."""

    def vocabulary(
        self, classes: ClassPrompts | Vocabulary, settings: VocabularySettings, preprocessor: Preprocessor
    ) -> Vocabulary:
        """Encode names and everything that goes beside them; of fixed names, choose."""

    def run(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> Any:
        """One pass, before suppression."""

    def detect(self, batch: ImageBatch, vocabulary: Vocabulary, settings: PredictSettings) -> list[Found]:
        """What suppression leaves of every image; the settings say score, precision and class_agnostic."""


class TorchModel:
    """The network in PyTorch. It is never changed, whatever is asked for.

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
        """How images become batches: the network's own way."""
        return self.detector.preprocessor

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.detector.device

    @property
    def precision(self) -> Precision:
        """Type that the network's layers run in, by its own default."""
        return self.detector.precision

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """What embeds names with the network's text tower."""
        return self.detector.vocabulary_encoder

    def vocabulary(
        self, classes: ClassPrompts | Vocabulary, settings: VocabularySettings, preprocessor: Preprocessor
    ) -> Vocabulary:
        """Names, exemplars and distractors as embeddings, on the network's device."""
        self._check_weights()
        detector = self.detector
        embeddings = exemplar_embeddings(detector, settings.exemplars or {}, preprocessor=preprocessor)
        return build_vocabulary(
            classes,
            settings,
            encoder=detector.vocabulary_encoder,
            config=detector.config,
            exemplar_embeddings=embeddings,
        ).to(detector.device)

    def run(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> Any:
        """One pass of the network as it is, with gradients where they are on: a `DetectorOutput`."""
        return self.detector(batch, vocabulary, score_threshold=score_threshold)

    def detect(self, batch: ImageBatch, vocabulary: Vocabulary, settings: PredictSettings) -> list[Found]:
        """What suppression leaves of every image, from a view of the network in the precision of the settings."""
        self._check_weights()
        view = (
            scoring_all_boxes(self.detector)
            if settings.score_all_boxes
            else self._fast.view(self.detector, settings.precision or self.precision)
        )
        output = view(batch.to(self.device), vocabulary, score_threshold=settings.score or 0.0)
        return self._suppress(output, batch.original_sizes, settings)

    def see(self, batch: ImageBatch, precision: Precision) -> Seen:
        """What a batch looks like before any name is known."""
        self._check_weights()
        return self._fast.view(self.detector, precision).see(batch.to(self.device))

    def detect_in(
        self, seen: Seen, sizes_hw: Sequence[tuple[int, int]], vocabulary: Vocabulary, settings: PredictSettings
    ) -> list[Found]:
        """As `detect`, in what `see` gave of images of these sizes; `settings.precision` is that of `see`."""
        self._check_weights()
        view = self._fast.view(self.detector, settings.precision or self.precision)
        return self._suppress(view.detect(seen, vocabulary, score_threshold=settings.score or 0.0), sizes_hw, settings)

    def state(self, precision: Precision) -> object:
        """Equal as long as `see` gives the same in this precision."""
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
