"""Class probabilities of region embeddings (METHOD section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionClassifier(nn.Module):
    """Softmax over [scale * cos(region, class_1..C), scale * background]; the last entry is the background.

    Args:
        scale: factor on the cosine, 100 for CLIP.
        background: cosine that a class has to pass to be likelier than nothing, 0 as published. Without it a region of
            something that nobody asked for belongs to the class that is least unlike it.
    """

    def __init__(self, *, scale: float, background: float = 0.0) -> None:
        super().__init__()
        self.scale, self.background = scale, background

    @property
    def background_logit(self) -> float:
        """Logit of the background beside those of `logits`."""
        return self.scale * self.background

    def logits(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Logits [..., C] of unit regions [..., D] for unit classes [C, D]: scale * cosine, without background."""
        return self.scale * regions @ class_embeddings.to(regions.dtype).T

    def forward(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """Probabilities [..., C] of the classes; the rest up to 1 is background."""
        logits = self.logits(regions, class_embeddings)
        nothing = torch.full_like(logits[..., :1], self.background_logit)
        with_background = torch.cat([logits, nothing], dim=-1)
        return with_background.softmax(dim=-1)[..., :-1]
