"""Change a predictor's defaults: precision, exact pooling of all boxes, image size."""

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
    """How commands score boxes.

    Attributes:
        precision: of the image tower and the localizer's layers.
        all_boxes: whether to pool every box exactly, as published.
    """

    precision: Any = "float32"
    all_boxes: bool = False

    def applied(self, predictor: Predictor) -> Predictor:
        """A predictor with the same weights and this scoring."""
        if not isinstance(predictor.model, TorchModel) and not self.all_boxes:
            return predictor  # the precision of an exported file is fixed
        changes = ALL_BOXES if self.all_boxes else {}
        return predictor.with_postprocess(precision=self.precision, **changes)


def set_short_side(detector: Predictor, short_side: int | None) -> None:
    """Resize images to another shorter side, in pixels; the limit of the longer side changes in proportion.

    Raises:
        CoraError: the detector is an exported file, whose input size is fixed.
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
