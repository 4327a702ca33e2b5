"""Training the anchor proposals before anything else: every cell learns in every step, so they learn fast.

Where a tower has a network of its own for boxes (`ImageTower.box_trunk`), that may learn with them. What regions are
named by stays frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.detector import Detector
from cora.errors import TrainingError
from cora.localizer import PyramidMemory
from cora.structures import FeatureMap
from cora.training.frozen_maps import TaskBatch
from cora.training.proposal_loss import proposal_losses

#: Prefix of the names of the trunk's parameters in the task; nothing else of the tower learns.
TRUNK = "detector.image_tower"


class ProposalTask(nn.Module):
    """Losses of input projection, encoder and proposals on a batch; all else is frozen and not run.

    Args:
        detector: whose localizer proposes its anchors.
        trunk: train the tower's box trunk, too, on batches of images.
        mixed_precision: run the encoder in bfloat16; losses stay in float32.

    Raises:
        TrainingError: the detector's anchors are learned, not proposed; or the tower has no box trunk to train.
    """

    def __init__(self, *, detector: Detector, trunk: bool = False, mixed_precision: bool = False) -> None:
        super().__init__()
        localizer = detector.localizer
        if not localizer.proposing:
            raise TrainingError('expected a localizer that proposes its anchors (anchors="proposed"), got learned ones')
        detector.requires_grad_(False)
        for part in localizer.proposing:
            part.requires_grad_(True)
        if trunk:
            if detector.image_tower.box_trunk is None:
                raise TrainingError("expected a tower with a network for boxes beside it, got one without")
            parts = nn.ModuleList([detector.image_tower.box_trunk, localizer])
            parts.to(memory_format=torch.channels_last)  # several times as fast on a CPU
            detector.image_tower.box_trunk.requires_grad_(True)
        self.detector, self.trunk, self.mixed_precision = detector, trunk, mixed_precision

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Losses of a batch of images, or of maps from a feature cache; "loss" is the one to minimise."""
        c3 = self._map(batch)
        with torch.autocast(c3.features.device.type, torch.bfloat16, enabled=self.mixed_precision):
            memory = self.detector.encode_map(c3)
            proposals = self.detector.localizer.propose(memory)
        losses = proposal_losses(proposals, batch[-1], aligned=isinstance(memory, PyramidMemory))
        return losses | {"loss": losses["proposals"]}

    def _map(self, batch: TaskBatch) -> FeatureMap:
        if isinstance(batch[0], FeatureMap):
            if self.trunk:
                raise TypeError("expected images to train the trunk on, got its maps")
            return batch[0]
        if self.trunk:
            return self.detector.image_tower.box_map(batch[0])
        with torch.no_grad():
            return self.detector.encode(batch[0])[0]
