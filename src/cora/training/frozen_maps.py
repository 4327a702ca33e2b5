"""Feature maps of the frozen image tower, computed from images or taken from a feature cache."""

from __future__ import annotations

import torch

from cora.detector import Detector
from cora.structures import FeatureMap, ImageBatch, Targets

#: A batch of a task: images and their targets, or cached feature maps (C3, C4) and their targets.
TaskBatch = tuple[ImageBatch, tuple[Targets, ...]] | tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]


@torch.no_grad()
def frozen_maps(detector: Detector, batch: TaskBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    """C3, C4 and targets of a batch; without gradients."""
    if isinstance(batch[0], FeatureMap):
        return batch
    return *detector.encode(batch[0]), batch[-1]
