"""Region-proposal localizer: one query content for all, any query may match any box."""

from __future__ import annotations

import torch

from cora.detector import Detector
from cora.detector.variants import any_object
from cora.regions import Vocabulary
from cora.structures import Targets
from cora.training.criterion import Criterion
from cora.training.localizer_task import LocalizerBatch, LocalizerTask, LocalizerTaskConfig


class RegionProposalTask(LocalizerTask):
    """Trains a localizer that finds objects of any class: CORA with a vocabulary of one word.

    Class dropout, class sampling and relaxed matching have no effect with one class.

    Args:
        detector: whose localizer learns.
        vocabulary: of the base classes; only its width is used.
        criterion: matching and losses.
        config: denoising and the like.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: Criterion | None = None,
        config: LocalizerTaskConfig | None = None,
    ) -> None:
        embedding = any_object(vocabulary.embeddings.shape[1]).to(vocabulary.embeddings)
        super().__init__(
            detector=detector, vocabulary=Vocabulary(("object",), embedding), criterion=criterion, config=config
        )

    def forward(self, batch: LocalizerBatch) -> dict[str, torch.Tensor]:
        """Losses of a batch; its classes are ignored."""
        *features, targets = batch
        objects = tuple(
            Targets(boxes_cxcywh=one.boxes_cxcywh, classes=torch.zeros_like(one.classes)) for one in targets
        )
        return super().forward((*features, objects))
