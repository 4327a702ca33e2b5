"""RoIAlign as two matrix products, one for the rows and one for the columns of the grid of bins.

RoIAlign averages a regular grid of bilinear samples, so it splits into a weighted sum over rows and one over columns.
The results equal torchvision's `roi_align(aligned=True)` with its adaptive number of samples; only the order of the
sums differs. No shape depends on values, so any runtime can execute it with dynamic sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cora.boxes import scale_to_pixels


def roi_align(features: Tensor, boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int) -> Tensor:
    """Pool boxes of maps to bins x bins cells.

    Args:
        features: [B, C, h, w].
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image, sizes at most 1.
        extents_hw: [B, 2] cells of the maps that are not padding.
        bins: side of the grid.

    Returns:
        [B, K, C, bins, bins].
    """
    batch, channels, height, width = features.shape
    count = boxes_cxcywh.shape[1]
    rows, columns = roi_weights(boxes_cxcywh, extents_hw, bins=bins, height=height, width=width)
    rows, columns = rows.to(features.dtype), columns.to(features.dtype)
    # Cell by cell in memory, so that every product reads and writes whole cells.
    lines = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    lines = (rows.flatten(1, 2) @ lines).view(batch, count, bins, width, channels)
    pooled: Tensor = (columns.unsqueeze(2) @ lines).permute(0, 1, 4, 2, 3)
    return pooled


def roi_weights(
    boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Matrices of RoIAlign: [B, N, bins, height] for the rows, [B, N, bins, width] for the columns."""
    left, top, right, bottom = scale_to_pixels(boxes_cxcywh, extents_hw).unbind(-1)
    rows = axis_weights(top, bottom, bins=bins, length=height)
    return rows, axis_weights(left, right, bins=bins, length=width)


def axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int, most: int | None = None) -> Tensor:
    """RoIAlign along one axis as a matrix.

    Args:
        low: [...] lower ends in cells.
        high: [...] upper ends, at most `length` above them unless `most` is given.
        bins: into which an extent is cut. A bin takes ceil(extent / bins) samples.
        length: cells of the axis; samples more than a cell off the map count as zero.
        most: samples that any bin takes; ceil(length / bins), which is known without the values, if None.

    Returns:
        [..., bins, length].
    """
    low, extent = low[..., None, None] - 0.5, (high - low)[..., None, None]
    taken = (extent / bins).ceil()
    per_bin = taken.clamp(min=1)
    step = torch.arange((length + bins - 1) // bins if most is None else most, device=low.device, dtype=low.dtype)
    bin_index = torch.arange(bins, device=low.device, dtype=low.dtype).unsqueeze(1)
    samples = low + (bin_index + (step + 0.5) / per_bin) * extent / bins  # [..., bins, most]
    counted = (step < taken) & (samples >= -1) & (samples <= length)
    cell = torch.arange(length, device=low.device, dtype=low.dtype)
    weights = (1 - (samples.clamp(0, length - 1).unsqueeze(-1) - cell).abs()).clamp(min=0)
    return (weights * counted.unsqueeze(-1).to(weights.dtype)).sum(dim=-2) / per_bin
