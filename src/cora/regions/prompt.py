"""Region prompt: the only trained part of CORA's region classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.towers import interpolate_positions


class RegionPrompt(nn.Module):
    """A learned offset p, initially zero, that is added to the S x S cells f of a region: v = Pool(f + p).

    Pool is nonlinear: the rest of the image tower, up to the embedding. The attention pool of a CLIP ResNet adds a
    positional table to its tokens (the mean of the cells, then the cells), so p is added to that table. Published
    checkpoints hold the sum of both; they load as a table with an offset of zero.

    Args:
        cells: rows of p: S*S + 1 for a CLIP ResNet (mean token first), S*S for other towers.
        channels: channels of the cells.
    """

    def __init__(self, *, cells: int, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(cells, channels))

    def forward(self, positions: Tensor) -> Tensor:
        """Add p to the tower's positional table [cells, channels], which is zero where a tower has none."""
        return positions + self.offset

    @torch.no_grad()
    def resample(self, pool_size: int) -> None:
        """Change S; the offsets of the cells are interpolated (bicubic), that of a mean token is kept."""
        offset = interpolate_positions(self.offset, (pool_size, pool_size))
        self.offset = nn.Parameter(offset, requires_grad=self.offset.requires_grad)
