"""Maps of a frozen tower, computed or from a feature cache: what every task on a detector begins with."""

from __future__ import annotations

import torch

from cora.detector import Detector
from cora.structures import FeatureMap, ImageBatch, Targets

#: Images, or the maps (C3, C4) that a frozen tower gave for them, with what they hold.
TaskBatch = tuple[ImageBatch, tuple[Targets, ...]] | tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]


@torch.no_grad()
def frozen_maps(detector: Detector, batch: TaskBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    """C3, C4 and what the images hold; no gradient reaches the tower."""
    if isinstance(batch[0], FeatureMap):
        return batch
    return *detector.encode(batch[0]), batch[-1]
