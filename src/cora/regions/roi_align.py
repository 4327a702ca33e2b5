"""RoIAlign as matrix products, for eager execution and for graphs that other runtimes execute.

RoIAlign averages a regular grid of bilinear samples, so it is a weighted sum over rows, then over columns. The results
equal torchvision's `roi_align(aligned=True)` with its adaptive sampling ratio up to rounding. No tensor shape of
`roi_align` depends on box values, so any runtime can execute it with dynamic sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torchvision
from torch import Tensor

from cora.boxes import scale_to_pixels
from cora.structures import FeatureMap

#: Regions pooled at once in half precision; bounds the memory of their strips [bins, W, C].
_REGIONS_AT_ONCE = 8
#: Regions of an image pooled at once in a traced graph; bounds the memory.
_STATIC_CHUNK = 64


def roi_align(features: Tensor, boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int) -> Tensor:
    """Pool boxes of maps to bins x bins cells; traceable.

    Args:
        features: [B, C, h, w].
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image, widths and heights up to 1.
        extents_hw: [B, 2] cells (height, width) of the maps that are not padding.
        bins: side of the grid.

    Returns:
        [B, K, C, bins, bins].
    """
    height, width = features.shape[-2:]
    rows, columns = roi_weights(boxes_cxcywh, extents_hw, bins=bins, height=height, width=width)
    return _by_products(features, rows.to(features.dtype), columns.to(features.dtype))


def align_all(c3: FeatureMap, boxes_cxcywh: Tensor, *, bins: int) -> Tensor:
    """`roi_align` of boxes [B, N, 4] to [B * N, C, bins, bins], in chunks that bound the memory; traceable."""
    extents = c3.extents_hw
    parts = [roi_align(c3.features, part, extents, bins=bins) for part in boxes_cxcywh.split(_STATIC_CHUNK, dim=1)]
    return torch.cat(parts, dim=1).flatten(0, 1)


def align_regions(
    c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], *, bins: int, chunk_size: int
) -> Iterator[Tensor]:
    """Pool boxes of each image in chunks that bound the memory; faster than `align_all`, but not traceable.

    Args:
        c3: maps of B images.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        bins: side of the grid.
        chunk_size: regions of a chunk.

    Yields:
        [R, C, bins, bins] of the R regions of a chunk, in the order of the images.

    Raises:
        ValueError: boxes for another number of images.
    """
    rois = _rois(c3.extents_hw, boxes_cxcywh)
    # torchvision's RoIAlign computes in float32 or more. In half precision, matrix products are twice as fast.
    single = c3.features.dtype in (torch.float32, torch.float64)
    for part in rois.split(chunk_size) if len(rois) else ():
        if single:
            yield torchvision.ops.roi_align(c3.features, part, (bins, bins), aligned=True)
        else:
            yield _align_in_half(c3.features, part, bins=bins)


def roi_weights(
    boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int, height: int, width: int, adaptive: bool = False
) -> tuple[Tensor, Tensor]:
    """Matrices of RoIAlign: [B, N, bins, height] for the rows, [B, N, bins, width] for the columns.

    Args:
        boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image; widths and heights up to 1 unless `adaptive`.
        extents_hw: [B, 2] cells (height, width) of the maps that are not padding.
        bins: number of bins along each axis.
        height: rows of the padded maps.
        width: columns of the padded maps.
        adaptive: take no more samples than the largest box needs: faster, but not traceable.
    """
    left, top, right, bottom = scale_to_pixels(boxes_cxcywh, extents_hw).unbind(-1)
    weights = _adaptive_weights if adaptive else axis_weights
    return weights(top, bottom, bins=bins, length=height), weights(left, right, bins=bins, length=width)


def axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int, most: int | None = None) -> Tensor:
    """RoIAlign along one axis as a matrix.

    Args:
        low: [...] lower ends of the boxes, in cells.
        high: [...] upper ends; extents (high - low) are at most `length` unless `most` is given.
        bins: number of bins. A bin takes ceil(extent / bins) samples.
        length: cells of the axis; samples more than a cell off the map count as zero.
        most: upper bound on the samples of a bin; None for ceil(length / bins), which no box exceeds.

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


def _adaptive_weights(low: Tensor, high: Tensor, *, bins: int, length: int) -> Tensor:
    most = max(1, int(((high - low) / bins).ceil().max())) if low.numel() else 1
    return axis_weights(low, high, bins=bins, length=length, most=most)


def _by_products(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[B, C, h, w] by [B, K, bins, h] and [B, K, bins, w] to [B, K, C, bins, bins], channels last in memory."""
    batch, channels, height, width = features.shape
    count, bins = rows.shape[1:3]
    # Channels last, so that every product reads and writes whole cells.
    cells = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    strips = (rows.flatten(1, 2) @ cells).view(batch, count, bins, width, channels)
    return (columns.unsqueeze(2) @ strips).permute(0, 1, 4, 2, 3)


def _align_in_half(features: Tensor, rois: Tensor, *, bins: int) -> Tensor:
    """RoIAlign of maps [B, C, H, W] by `rois` [R, 5] as `_rois` makes them: [R, C, bins, bins]."""
    _, channels, height, width = features.shape
    pooled = features.new_empty(len(rois), bins, bins, channels).permute(0, 3, 1, 2)
    images, left, top, right, bottom = rois.unbind(dim=1)
    rows = _adaptive_weights(top, bottom, bins=bins, length=height).to(features.dtype)
    columns = _adaptive_weights(left, right, bins=bins, length=width).to(features.dtype)
    features = features.contiguous(memory_format=torch.channels_last)  # once, not in every product
    for image in images.long().unique().tolist():
        for places in (images == image).nonzero()[:, 0].split(_REGIONS_AT_ONCE):
            pooled[places] = _by_products(features[image : image + 1], rows[None, places], columns[None, places])[0]
    return pooled


def _rois(extents: Tensor, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
    """Boxes as torchvision's RoIs [sum N_i, 5]: index of the image, then xyxy in cells of the unpadded map."""
    check_images(boxes_cxcywh, len(extents))
    rows = []
    for index, boxes in enumerate(boxes_cxcywh):
        corners = scale_to_pixels(boxes.to(extents.dtype), extents[index])
        rows.append(torch.cat([torch.full_like(corners[:, :1], index), corners], dim=1))
    return torch.cat(rows)


def check_images(boxes_cxcywh: Tensor | Sequence[Tensor], images: int) -> None:
    """Check that there are boxes for every image.

    Raises:
        ValueError: boxes for another number of images.
    """
    given = boxes_cxcywh.shape[0] if isinstance(boxes_cxcywh, Tensor) else len(boxes_cxcywh)
    if given != images:
        raise ValueError(f"boxes_cxcywh: expected boxes for {images} images, got {given}")
