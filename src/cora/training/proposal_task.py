"""Trains the anchor proposals, before the decoder is trained. They learn fast, since every cell learns in every step.

Some towers have a second network whose feature maps only the localizer reads (`ImageTower.box_trunk`). It can be
trained with the proposals. The parts that region embeddings come from stay frozen.
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

#: Prefix of the parameter names of the image tower in the task; of the tower, only the box trunk is trained.
TRUNK = "detector.image_tower"


class ProposalTask(nn.Module):
    """Losses of the localizer's input projection, encoder and proposals; the decoder is not run.

    Args:
        detector: its localizer must propose its anchors. All its other parts are frozen.
        trunk: also train the tower's box trunk; batches must then be images, not cached feature maps.
        mixed_precision: run the encoder in bfloat16; losses stay in float32.

    Raises:
        TrainingError: the detector has learned anchors; or `trunk` is set and the tower has no box trunk.
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
            parts.to(memory_format=torch.channels_last)  # several times faster on a CPU
            detector.image_tower.box_trunk.requires_grad_(True)
        self.detector, self.trunk, self.mixed_precision = detector, trunk, mixed_precision

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Losses of a batch of images or of cached feature maps; minimise "loss"."""
        c3 = self._c3(batch)
        with torch.autocast(c3.features.device.type, torch.bfloat16, enabled=self.mixed_precision):
            memory = self.detector.encode_map(c3)
            proposals = self.detector.localizer.propose(memory)
        losses = proposal_losses(proposals, batch[-1], aligned=isinstance(memory, PyramidMemory))
        return losses | {"loss": losses["proposals"]}

    def _c3(self, batch: TaskBatch) -> FeatureMap:
        if isinstance(batch[0], FeatureMap):
            if self.trunk:
                raise TypeError("expected images to train the trunk on, got its maps")
            return batch[0]
        if self.trunk:
            return self.detector.image_tower.box_map(batch[0])
        with torch.no_grad():
            return self.detector.encode(batch[0])[0]
