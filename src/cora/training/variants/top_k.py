"""Pre-matching with several classes an anchor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cora.detector import Detector
from cora.localizer import Memory, pre_match
from cora.regions import Vocabulary
from cora.structures import Targets
from cora.training.criterion import Criterion
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig


class TopKTask(LocalizerTask):
    """Every anchor makes k queries, for the k classes that its region looks most like.

    Args:
        detector: whose localizer learns.
        vocabulary: the base classes.
        criterion: matching and losses.
        config: class dropout, denoising and the like.
        top_k: classes an anchor; where fewer are given, some are looked for twice.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: Criterion | None = None,
        config: LocalizerTaskConfig | None = None,
        top_k: int = 2,
    ) -> None:
        super().__init__(detector=detector, vocabulary=vocabulary, criterion=criterion, config=config)
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {top_k}")
        self.top_k = top_k

    def anchors(self, memory: Memory) -> Tensor:
        """Anchor boxes [B, N * k, 4], each k times."""
        return super().anchors(memory).repeat_interleave(self.top_k, dim=1)

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Classes [B, N * k], those of an anchor one after the other, best first."""
        given = min(self.top_k, len(known))
        ranked = pre_match(regions[:, :: self.top_k], self.class_embeddings[known], top_k=given)
        turns = torch.arange(self.top_k, device=known.device) % given
        return known[ranked.unflatten(1, (-1, given))[..., turns].flatten(1)]
