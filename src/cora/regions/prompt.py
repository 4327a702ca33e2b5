"""Region prompt: the learned part of region classification (METHOD section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionPrompt(nn.Module):
    """A learned offset p, initially zero, that is added to the pooled cells f of a region: v = Pool(f + p).

    It is added before a nonlinearity. A CLIP ResNet's attention pool adds its positional table to the cells f, so p
    joins the table, which has a row for the mean token, too. Published checkpoints hold the sum of both, which is the
    same model with an offset of zero.

    Args:
        cells: rows of the table: S*S, or S*S + 1 with the mean token.
        channels: channels of the pooled features.
    """

    def __init__(self, *, cells: int, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(cells, channels))

    def forward(self, positions: Tensor) -> Tensor:
        """The tower's table [cells, channels] to the prompted table of the same shape."""
        return positions + self.offset
