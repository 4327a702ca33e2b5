"""The MLP and the transformer feed-forward block that the localizer is built from."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them (none after the last).

    Args:
        widths: width of the input, of every hidden layer and of the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., widths[0]] to [..., widths[-1]]."""
        *hidden, last = self.layers
        for layer in hidden:
            inputs = F.relu(layer(inputs))
        outputs: Tensor = last(inputs)
        return outputs


class FeedForward(nn.Module):
    """Feed-forward block of a transformer layer: norm(x + W2 PReLU(W1 x)).

    Args:
        dim: width of inputs and outputs.
        hidden: width between the two linear layers.
        dropout: dropout probability, 0..1, in training only.
    """

    def __init__(self, *, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.activation = nn.PReLU()
        self.contract = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        update = self.contract(self.dropout(self.activation(self.expand(inputs))))
        outputs: Tensor = self.norm(inputs + self.dropout(update))
        return outputs
