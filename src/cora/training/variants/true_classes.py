"""Exact classes at pre-matching: anchors get the class of the ground-truth box that they overlap most."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cora.detector.variants import classes_of_boxes
from cora.structures import Targets
from cora.training.localizer_task import LocalizerTask


class TrueClassTask(LocalizerTask):
    """CORA's training with an oracle at pre-matching; anchors over no box are pre-matched as usual."""

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Class [B, N] of every anchor; boxes of classes that the copy is not given are not among `targets`."""
        usual = super().pre_match(regions, anchors_cxcywh, known, targets)
        return classes_of_boxes(anchors_cxcywh, targets, usual)
