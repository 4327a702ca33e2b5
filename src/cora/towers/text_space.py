"""Heads that project pooled features of an image backbone into a text space.

The backbone's own ImageNet classifier is the start: the mean of its classes' text embeddings, weighted by their
probabilities, is a point in the text space (ConSE, Norouzi et al., 2014). An MLP learns what to add to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Most probable classes that the mean is taken over; the others are mostly noise.
TOP_CLASSES = 10


class TextSpaceHead(nn.Module):
    """normalize(sum_k p_k t_k) + MLP(features), p_k and t_k being probability and text embedding of the top classes.

    `label_embeddings` [labels, D] holds the text embeddings of the classifier's classes.

    Args:
        features: channels of a pooled region.
        labels: number of classes of the classifier.
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
        """Pooled regions [R, features] to [R, D], not normalised; of length 1 until the MLP has learned."""
        count = min(TOP_CLASSES, self.classifier.out_features)
        probabilities, classes = self.classifier(features).softmax(-1).topk(count, dim=-1)
        mean = F.normalize((probabilities.unsqueeze(-1) * self.label_embeddings[classes]).sum(1), dim=-1)
        learned: Tensor = self.contract(F.gelu(self.expand(features)))
        return mean + learned


class FineHead(nn.Module):
    """MLP of a region's cells in a map of finer stride; its output is added to the region's embedding.

    Small objects need it: a cell of the backbone's last map has a receptive field far beyond them, so that a person on
    a bench is classified as a bench.

    Args:
        channels: channels of the finer map.
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
        """Pooled cells [R, channels, bins, bins] to [R, D]; zeros at the start of training."""
        added: Tensor = self.contract(F.gelu(self.expand(cells.flatten(1).to(self.expand.weight.dtype))))
        return added
