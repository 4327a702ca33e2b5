"""Predictors that work otherwise than their model says: another precision, every box exactly, another image size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cora.detector.postprocess import ALL_BOXES
from cora.errors import CoraError
from cora.images import Preprocessor
from cora.predictor.model import TorchModel
from cora.predictor.predictor import Predictor


@dataclass(frozen=True)
class Scoring:
    """precision: of the image tower; all_boxes: whether every box is pooled exactly, the published way."""

    precision: Any = "float32"
    all_boxes: bool = False

    def applied(self, predictor: Predictor) -> Predictor:
        """A predictor of the same weights that scores so."""
        if not isinstance(predictor.model, TorchModel) and not self.all_boxes:
            return predictor  # the precision of an exported file is its own
        changes = ALL_BOXES if self.all_boxes else {}
        return predictor.with_postprocess(precision=self.precision, **changes)


def set_short_side(detector: Predictor, short_side: int | None) -> None:
    """Let a predictor resize images to another shorter side; the limit of the longer one changes in proportion.

    Raises:
        CoraError: the detector is an exported file, whose input has one size.
    """
    if short_side is None:
        return
    if not isinstance(detector.model, TorchModel):
        raise CoraError(
            f"--short-side {short_side}: expected a model by name or a checkpoint, got an exported file, whose input "
            "is fixed; export it for that size"
        )
    config = detector.preprocessor.config
    long_side = round(config.long_side * short_side / config.short_side)
    detector.preprocessor = Preprocessor.from_config(replace(config, short_side=short_side, long_side=long_side))
