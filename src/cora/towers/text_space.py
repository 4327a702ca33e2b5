"""The way of an image backbone into a text space: from what it sees in a region to what words would say of it.

An ImageNet classifier already names a region; the mean of its classes' text embeddings, weighted by their
probabilities, is a point in the text space (ConSE, Norouzi et al., 2014). A small network learns what that mean misses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Classes that share in the mean; the long tail of a softmax over a thousand classes says little.
BEST = 10


class TextSpaceHead(nn.Module):
    """normalize(sum of the best classes' p_k t_k) + MLP(features).

    Args:
        features: channels of a pooled region.
        labels: classes of the classifier.
        embed_dim: width D of the text space.
        hidden: width of the MLP's hidden layer.
    """

    def __init__(self, *, features: int, labels: int, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, labels)
        self.expand = nn.Linear(features, hidden)
        self.contract = nn.Linear(hidden, embed_dim)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.register_buffer("label_embeddings", torch.zeros(labels, embed_dim))
        self.label_embeddings: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Pooled regions [R, features] to [R, D], not normalised; at the start of training of length 1."""
        shares, classes = self.classifier(features).softmax(-1).topk(min(BEST, self.classifier.out_features), dim=-1)
        known = F.normalize((shares.unsqueeze(-1) * self.label_embeddings[classes]).sum(1), dim=-1)
        learned: Tensor = self.contract(F.gelu(self.expand(features)))
        return known + learned


class FineHead(nn.Module):
    """What a finer map adds to a region's embedding: an MLP of its pooled cells.

    The deep map's cells see far beyond a small object, so a person on a bench looks like a bench to it.

    Args:
        channels: of the finer map.
        bins: side of the grid that a region is pooled to.
        embed_dim: width D of the text space.
        hidden: width of the MLP's hidden layer.
    """

    def __init__(self, *, channels: int, bins: int, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.bins = bins
        self.expand = nn.Linear(channels * bins**2, hidden)
        self.contract = nn.Linear(hidden, embed_dim)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, cells: Tensor) -> Tensor:
        """Cells of regions [R, channels, bins, bins] to [R, D]; zeros at the start of training."""
        added: Tensor = self.contract(F.gelu(self.expand(cells.flatten(1).to(self.expand.weight.dtype))))
        return added
