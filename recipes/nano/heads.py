"""A head of the image tower while it learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.towers.text_space import FineHead, TextSpaceHead

#: Dropout between the two layers.
DROPOUT = 0.5


class LearningHead(nn.Module):
    """The MLP of a head, with standardised inputs and dropout; afterwards the head gets weights for inputs as they are.

    Args:
        head: head of the tower, which does not change until `store`.
        sample: [R, ...] inputs, whose means and deviations the head is to see as 0 and 1.
        dropout: of the inputs.
        fresh: start from new weights, which add nothing to an embedding; else from the head's own.
    """

    def __init__(self, head: TextSpaceHead | FineHead, sample: Tensor, *, dropout: float, fresh: bool = False) -> None:
        super().__init__()
        self.head = (head,)  # a tuple, so that it is no part of this module
        self.dropout = dropout
        inputs = sample.flatten(1).float()
        self.mean, self.deviation = inputs.mean(0), inputs.std(0) + 1e-2
        self.expand = nn.Linear(head.expand.in_features, head.expand.out_features)
        self.contract = nn.Linear(head.contract.in_features, head.contract.out_features)
        with torch.no_grad():
            if fresh:
                self.contract.weight.zero_()
                self.contract.bias.zero_()
            else:
                self.expand.weight.copy_(head.expand.weight * self.deviation)
                self.expand.bias.copy_(head.expand.bias + head.expand.weight @ self.mean)
                self.contract.load_state_dict(head.contract.state_dict())

    def forward(self, inputs: Tensor) -> Tensor:
        """What the head adds to the embeddings [R, D] of regions with inputs [R, ...]."""
        drawn = F.dropout((inputs.flatten(1).float() - self.mean) / self.deviation, self.dropout, self.training)
        added: Tensor = self.contract(F.dropout(F.gelu(self.expand(drawn)), DROPOUT, self.training))
        return added

    @torch.no_grad()
    def store(self, share: float = 1.0) -> None:
        """Give the head what was learned; `share` 0..1 of it."""
        (head,) = self.head
        head.expand.weight.copy_(self.expand.weight / self.deviation)
        head.expand.bias.copy_(self.expand.bias - self.expand.weight @ (self.mean / self.deviation))
        head.contract.weight.copy_(share * self.contract.weight)
        head.contract.bias.copy_(share * self.contract.bias)
