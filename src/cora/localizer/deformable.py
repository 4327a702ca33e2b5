"""Deformable cross-attention (Deformable DETR, arXiv 2010.04159): an option, used neither by the paper nor by `nano`.

It replaces the decoder's attention to all cells: a query samples a few points in and around its anchor, from every
level of the encoded map. The finest level is cheap to include, so a box is refined from the cells at its borders.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.localizer.attention import AttentionBlock
from cora.localizer.memory import Memory

#: Points that a head samples from each level.
POINTS = 4


class DeformableAttention(AttentionBlock):
    """Samples `POINTS` points per head and level, at predicted offsets relative to the anchor's centre and size.

    Args:
        dim: width of queries and map tokens.
        heads: number of heads.
        dropout: dropout probability of the outputs, in training.
        levels: number of levels of the memory.
        head_dim: width of a head; 0 stands for dim / heads.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float, levels: int, head_dim: int = 0) -> None:
        super().__init__(dim=dim, heads=heads, dropout=dropout, head_dim=head_dim)
        self.levels = levels
        self.offsets = nn.Linear(dim, heads * levels * POINTS * 2)
        self.weights = nn.Linear(dim, heads * levels * POINTS)
        self.value = nn.Linear(dim, self.inner)

    def reset_parameters(self) -> None:
        """Start each head in a different direction, its points evenly spaced from the anchor's centre to its border."""
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, POINTS + 1) / POINTS
        start = (direction[:, None, None] * reach[None, None, :, None]).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())

    def forward(self, content: Tensor, positions: Tensor, anchors_cxcywh: Tensor, memory: Memory) -> Tensor:
        """Let the queries sample the encoded map around their anchors.

        Args:
            content: [B, N, dim].
            positions: [B, N, dim] sine features of the anchors after an MLP.
            anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
            memory: the encoded map, with as many levels as this block.

        Returns:
            [B, N, dim] updated content.
        """
        query = content + positions
        shape = (*query.shape[:2], self.heads, self.levels, POINTS)
        # An output of 1 reaches the border of the anchor, half its size from the centre.
        offsets = self.offsets(query).view(*shape, 2) / 2
        weights = self.weights(query).view(*shape[:3], -1).softmax(dim=-1).view(shape)
        centre, size = anchors_cxcywh[:, :, None, None, None].split(2, dim=-1)
        points = centre + offsets * size
        value = self.value(memory.tokens)
        if memory.visible is not None:
            value = value * memory.visible[:, 0, 0, :, None]
        counts = [level.height * level.width for level in memory.levels]
        update = torch.stack(
            [
                _sample(
                    values,
                    points[:, :, :, index] * memory.inside(level)[:, None, None, None],
                    weights[:, :, :, index],
                    level.height,
                )
                for index, (values, level) in enumerate(zip(value.split(counts, dim=1), memory.levels, strict=True))
            ]
        ).sum(dim=0)
        return self.add(content, update)


def _sample(value: Tensor, points: Tensor, weights: Tensor, height: int) -> Tensor:
    """Weighted sum of a level's values at points, by bilinear interpolation.

    Args:
        value: [B, height * width, heads * d], row by row.
        points: [B, N, heads, P, 2] (x, y), 0..1 of the padded map; outside it values are 0.
        weights: [B, N, heads, P].
        height: rows of the map.

    Returns:
        [B, N, heads * d].
    """
    batch, count, heads, _, _ = points.shape
    # In float32: half precision would move a point by pixels.
    maps = value.float().transpose(1, 2).reshape(batch * heads, -1, height, value.shape[1] // height)
    grid = (2 * points.float() - 1).transpose(1, 2).flatten(0, 1)
    samples = F.grid_sample(maps, grid, align_corners=False)
    summed = (samples * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(dim=-1)
    return summed.view(batch, -1, count).transpose(1, 2)
