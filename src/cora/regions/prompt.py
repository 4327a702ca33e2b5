"""Region prompt: the learned part of region classification (METHOD section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionPrompt(nn.Module):
    """Additive offset to the attention pool's positional table, zero at the start.

    The paper writes v = Pool(f + p); the pool adds its positional table to f, so p joins the table. Published
    checkpoints hold the sum of both, which is the same model with an offset of zero.

    Args:
        pool_size: S, side of the pooled grid.
        channels: channels of the pooled features.
    """

    def __init__(self, *, pool_size: int, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(pool_size**2 + 1, channels))

    def forward(self, positions: Tensor) -> Tensor:
        """Positional table [S*S+1, C] to the prompted table of the same shape."""
        return positions + self.offset
