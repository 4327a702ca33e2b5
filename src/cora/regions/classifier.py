"""Class probabilities of region embeddings (METHOD section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionClassifier(nn.Module):
    """Softmax over [scale * cos(region, class_1..C), 0]; the last entry, a constant logit, is the background.

    Args:
        scale: factor on the cosine, 100 for CLIP.
    """

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def logits(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """scale * cosine: unit regions [..., D] and unit classes [C, D] to [..., C], without background."""
        return self.scale * regions @ class_embeddings.to(regions.dtype).T

    def forward(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Probabilities [..., C] of the classes; what they lack to 1 is background."""
        logits = self.logits(regions, class_embeddings)
        with_background = torch.cat([logits, torch.zeros_like(logits[..., :1])], dim=-1)
        return with_background.softmax(dim=-1)[..., :-1]
