"""Training the anchor proposals before anything else: every cell learns in every step, so they learn fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.detector import Detector
from cora.errors import TrainingError
from cora.localizer import PyramidMemory
from cora.structures import FeatureMap
from cora.training.localizer_task import LocalizerBatch
from cora.training.proposal_loss import proposal_losses


class ProposalTask(nn.Module):
    """Losses of input projection, encoder and proposals on a batch; all else is frozen and not run.

    Args:
        detector: whose localizer proposes its anchors.
        mixed_precision: run the encoder in bfloat16; losses stay in float32.

    Raises:
        TrainingError: the detector's anchors are learned, not proposed.
    """

    def __init__(self, *, detector: Detector, mixed_precision: bool = False) -> None:
        super().__init__()
        localizer = detector.localizer
        if localizer.proposals is None:
            raise TrainingError('expected a localizer that proposes its anchors (anchors="proposed"), got learned ones')
        detector.requires_grad_(False)
        for part in (localizer.input_projection, localizer.encoder, localizer.proposals):
            if part is not None:
                part.requires_grad_(True)
        self.detector, self.mixed_precision = detector, mixed_precision

    def forward(self, batch: LocalizerBatch) -> dict[str, Tensor]:
        """Losses of a batch of images, or of maps from a feature cache; "loss" is the one to minimise."""
        if isinstance(batch[0], FeatureMap):
            c3 = batch[0]
        else:
            with torch.no_grad():
                c3, _ = self.detector.encode(batch[0])
        with torch.autocast(c3.features.device.type, torch.bfloat16, enabled=self.mixed_precision):
            memory = self.detector.encode_map(c3)
            proposals = self.detector.localizer.propose(memory)
        losses = proposal_losses(proposals, batch[-1], aligned=isinstance(memory, PyramidMemory))
        return losses | {"loss": losses["proposals"]}
