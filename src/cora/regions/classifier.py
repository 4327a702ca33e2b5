"""The region classifier: from region embeddings to class probabilities, by cosine similarity, as in CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionClassifier(nn.Module):
    """Softmax over C + 1 logits: scale * cosine(region, class) for C classes, and scale * background.

    Args:
        scale: factor on the cosine (inverse temperature), 100 for CLIP.
        background: constant that stands for the cosine of the background, -1..1; 0 as published. A class with a lower
            cosine is less likely than background. A higher value rejects more objects outside the vocabulary.
    """

    def __init__(self, *, scale: float, background: float = 0.0) -> None:
        super().__init__()
        self.scale, self.background = scale, background

    @property
    def background_logit(self) -> float:
        """Logit of the background, comparable with `logits`."""
        return self.scale * self.background

    def logits(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Logits [..., C], without background, of unit region embeddings [..., D] and unit class embeddings [C, D]."""
        return self.scale * regions @ class_embeddings.to(regions.dtype).T

    def forward(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Class probabilities [..., C] of unit regions [..., D] for unit classes [C, D]; the rest is background."""
        logits = self.logits(regions, class_embeddings)
        background = torch.full_like(logits[..., :1], self.background_logit)
        with_background = torch.cat([logits, background], dim=-1)
        return with_background.softmax(dim=-1)[..., :-1]
