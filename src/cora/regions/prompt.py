"""The region prompt (the paper's section "Region Prompting"): the only trained part of region classification.

CLIP learned from whole images, so the embedding of a region does not quite match that of its class name. A learned
offset on the pooled cells of every region closes the gap, while CLIP stays frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.towers import interpolate_positions


class RegionPrompt(nn.Module):
    """A learned offset p for the S x S cells f of every region: embedding = Pool(f + p). It starts at zero.

    Pool is the rest of the image tower after the cells. A CLIP ResNet ends in an attention pool, whose tokens (the mean
    of the cells, then the cells) get a positional table. Adding p to that table is the same as adding it to the tokens.
    Published checkpoints store only the sum, table + p. They load with that sum as the tower's table and p = 0.

    Args:
        cells: rows of p: S*S + 1 for a CLIP ResNet (mean token first), S*S for other towers.
        channels: channels of the cells.
    """

    def __init__(self, *, cells: int, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(cells, channels))

    def forward(self, positions: Tensor) -> Tensor:
        """Prompted positions [cells, channels] from the tower's positional table (zeros if it has none)."""
        return positions + self.offset

    @torch.no_grad()
    def resample(self, pool_size: int) -> None:
        """Change S to `pool_size`: interpolate the offsets of the cells (bicubic), keep that of the mean token."""
        offset = interpolate_positions(self.offset, (pool_size, pool_size))
        self.offset = nn.Parameter(offset, requires_grad=self.offset.requires_grad)
