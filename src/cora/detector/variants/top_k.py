"""Pre-matching with several classes an anchor: one query for each of the k classes that its region looks most like."""

from __future__ import annotations

from functools import partial
from typing import Self

import torch
from torch import Tensor

from cora.detector.cora import Detector
from cora.detector.outputs import PreMatched
from cora.detector.variants.parts import parts_of
from cora.localizer import pre_match
from cora.regions import Prepared, Vocabulary
from cora.structures import FeatureMap


class TopKDetector(Detector):
    """Decodes k queries for every anchor; the decoder's cost grows k times, not with the vocabulary.

    Args:
        top_k: classes an anchor; all of them where the vocabulary has fewer.
        parts: of any detector.
    """

    def __init__(self, *, top_k: int, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]  # passed on as they are
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {top_k}")
        self.top_k = top_k

    @classmethod
    def of(cls, detector: Detector, *, top_k: int = 2) -> Self:
        """A detector that shares all modules with the given one."""
        return cls(top_k=top_k, **parts_of(detector)).train(detector.training)

    def pre_match(self, c4: FeatureMap | Prepared, anchors_cxcywh: Tensor, vocabulary: Vocabulary) -> PreMatched:
        """Give every anchor [B, N, 4] its k best classes: N * k queries, those of an anchor one after the other."""
        top_k = min(self.top_k, len(vocabulary))
        match = partial(pre_match, top_k=top_k, temperature=self.config.tower.logit_scale)
        with torch.no_grad():
            classes = match(self.embed_fast(c4, anchors_cxcywh), vocabulary.embeddings, vocabulary.weights)
        return PreMatched(anchors_cxcywh.repeat_interleave(top_k, dim=1), classes, vocabulary.embeddings)
