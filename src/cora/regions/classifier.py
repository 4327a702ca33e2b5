"""The region classifier: class probabilities of region embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionClassifier(nn.Module):
    """Softmax over [scale * cos(region, class_1..C), scale * background]; the last entry is the background.

    Args:
        scale: factor on the cosine, 100 for CLIP.
        background: cosine of the background class, 0 as published. Classes below it are less likely than background;
            a higher value rejects more regions of objects that are not in the vocabulary.
    """

    def __init__(self, *, scale: float, background: float = 0.0) -> None:
        super().__init__()
        self.scale, self.background = scale, background

    @property
    def background_logit(self) -> float:
        """Logit of the background, on the scale of `logits`."""
        return self.scale * self.background

    def logits(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Scale * cosine [..., C] of unit regions [..., D] and unit classes [C, D]; no background."""
        return self.scale * regions @ class_embeddings.to(regions.dtype).T

    def forward(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Class probabilities [..., C] of unit regions [..., D] for unit classes [C, D]; the rest is background."""
        logits = self.logits(regions, class_embeddings)
        nothing = torch.full_like(logits[..., :1], self.background_logit)
        with_background = torch.cat([logits, nothing], dim=-1)
        return with_background.softmax(dim=-1)[..., :-1]
