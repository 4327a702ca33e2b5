"""Learned anchor boxes (DAB-DETR's reference points) and their initialisation: grids, or k-means of training boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cora.errors import ModelError


def inverse_sigmoid(probabilities: Tensor, *, margin: float) -> Tensor:
    """Logits of values in 0..1, in the same shape.

    Args:
        probabilities: any shape.
        margin: values are kept at least this far from 0 and 1, so that logits stay finite. The decoder uses 1e-3 for
            the anchors of the next layer and 1e-5 for output boxes, as published.
    """
    return probabilities.clamp(min=margin).log() - (1 - probabilities).clamp(min=margin).log()


class LearnedAnchors(nn.Module):
    """Learned anchors, the same for every image; the parameter holds their logits [count, 4].

    Args:
        count: number of anchors.
    """

    def __init__(self, *, count: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(count, 4))
        self.start_from(grid_anchors(count))

    def start_from(self, anchors_cxcywh: Tensor) -> None:
        """Set the anchors to given boxes, for example from `grid_anchors` or `kmeans_anchors`.

        Args:
            anchors_cxcywh: [N, 4], 0..1, widths and heights above 0.

        Raises:
            ModelError: the number of boxes is not the number of anchors.
        """
        if anchors_cxcywh.shape != self.logits.shape:
            raise ModelError(
                f"anchors: expected {list(self.logits.shape)}, got {list(anchors_cxcywh.shape)}; "
                "set num_queries to the number of boxes"
            )
        with torch.no_grad():
            self.logits.copy_(inverse_sigmoid(anchors_cxcywh, margin=1e-4))

    def draw(self) -> None:
        """Set the anchors to random boxes, with logits drawn from N(0, 1), as published."""
        nn.init.normal_(self.logits)

    def forward(self, batch_size: int) -> Tensor:
        """Anchors [batch_size, N, 4], cxcywh in 0..1 of the unpadded image."""
        return self.logits.sigmoid().expand(batch_size, -1, -1)


def grid_anchors(count: int, *, sizes: Sequence[float] = (0.08, 0.16, 0.32, 0.6)) -> Tensor:
    """Square anchors of several sizes, each size on a grid over the whole image: many small ones, few large ones.

    A grid has a number of cells per side proportional to 1 / size, so neighbours of every size overlap about equally.

    Args:
        count: number of anchors. The smallest size gets all anchors that the other sizes leave.
        sizes: sides of the anchors, 0..1 of the image.

    Returns:
        [count, 4] cxcywh in 0..1, largest size first.
    """
    density = math.sqrt(count / sum(1 / size**2 for size in sizes))
    boxes: list[Tensor] = []
    left = count
    for size in sorted(sizes, reverse=True):
        per_side = max(1, round(density / size))
        if per_side**2 > left or size == min(sizes):
            break
        boxes.append(_grid(per_side, per_side, size))
        left -= per_side**2
    if left:
        finest = min(sizes)
        rows = max(1, round(math.sqrt(left)))
        grid = _grid(rows, math.ceil(left / rows), finest)
        boxes.append(grid[torch.linspace(0, len(grid) - 1, left).round().long()])
    return torch.cat(boxes)


def kmeans_anchors(boxes_cxcywh: Tensor, count: int, *, iterations: int = 20, seed: int = 0) -> Tensor:
    """Anchors at the centres of k-means over the boxes of a training set, as vectors (cx, cy, w, h).

    Args:
        boxes_cxcywh: [T, 4], 0..1, at least `count` boxes.
        count: number of anchors.
        iterations: iterations of k-means.
        seed: seed of the initial centres.

    Returns:
        [count, 4] cxcywh in 0..1.

    Raises:
        ModelError: fewer boxes than anchors.
    """
    if len(boxes_cxcywh) < count:
        raise ModelError(
            f"anchors: expected at least {count} boxes to place {count} anchors, got {len(boxes_cxcywh)}; "
            "use grid_anchors"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(boxes_cxcywh), generator=generator)[:count]
    centres = boxes_cxcywh[chosen.to(boxes_cxcywh.device)].clone()
    for _ in range(iterations):
        nearest = torch.cdist(boxes_cxcywh, centres).argmin(dim=1)
        members = torch.zeros_like(centres[:, 0]).index_add_(0, nearest, torch.ones_like(boxes_cxcywh[:, 0]))
        sums = torch.zeros_like(centres).index_add_(0, nearest, boxes_cxcywh)
        # A centre without boxes stays where it is.
        centres = torch.where(members[:, None] > 0, sums / members[:, None].clamp(min=1), centres)
    return centres


def _grid(rows: int, columns: int, size: float) -> Tensor:
    """Square boxes [rows * columns, 4] cxcywh of one size at the cell centres of a grid."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flip(-1).flatten(0, 1)
    return torch.cat([centres, torch.full_like(centres, size)], dim=-1)
