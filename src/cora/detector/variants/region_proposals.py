"""Region-proposal localizer, the paper's class-agnostic baseline.

Queries know no class; only the region classifier does.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from cora.detector.cora import Detector
from cora.detector.outputs import PreMatched
from cora.detector.variants.parts import parts_of
from cora.regions import Prepared, Vocabulary
from cora.structures import FeatureMap


def any_object(width: int) -> Tensor:
    """The one embedding [1, width] that stands for every class, unit norm.

    Any constant would do: the class projection turns it into one learned query content.
    """
    return torch.full((1, width), width**-0.5)


class RegionProposalDetector(Detector):
    """Every query has the same content, so that boxes and objectness do not depend on the vocabulary."""

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """A detector that shares all modules with the given one."""
        return cls(**parts_of(detector)).train(detector.training)

    def pre_match(self, c4: FeatureMap | Prepared, anchors_cxcywh: Tensor, vocabulary: Vocabulary) -> PreMatched:
        """Give every anchor [B, N, 4] the same "any object"; neither the map nor the vocabulary plays a part."""
        classes = torch.zeros(anchors_cxcywh.shape[:2], dtype=torch.int64, device=anchors_cxcywh.device)
        return PreMatched(anchors_cxcywh, classes, any_object(self.image_tower.embed_dim).to(anchors_cxcywh))
