"""RoIAlign as two matrix products, so that other runtimes can execute it and half precision is fast.

RoIAlign averages a regular grid of bilinear samples, so it is a weighted sum over rows, then over columns. The results
equal torchvision's `roi_align(aligned=True, sampling_ratio=-1)` up to rounding.

`roi_align` and `align_all` are traceable: no tensor shape depends on box values, so an exported graph accepts images of
any size. `align_regions` is faster in eager mode, but not traceable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torchvision
from torch import Tensor

from cora.boxes import scale_to_pixels
from cora.structures import FeatureMap

#: Regions pooled at once in half precision; bounds the memory of the intermediate [bins, W, C] of each.
_REGIONS_AT_ONCE = 8
#: Regions of an image pooled at once in a traced graph; bounds the memory.
_STATIC_CHUNK = 64


def roi_align(features: Tensor, boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int) -> Tensor:
    """Pool every box to bins x bins cells; traceable.

    Args:
        features: [B, C, h, w].
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image, widths and heights up to 1.
        extents_hw: [B, 2] (height, width) of each image in cells of the map, without padding.
        bins: side of the grid.

    Returns:
        [B, K, C, bins, bins].
    """
    height, width = features.shape[-2:]
    rows, columns = roi_weights(boxes_cxcywh, extents_hw, bins=bins, height=height, width=width)
    return _apply_weights(features, rows.to(features.dtype), columns.to(features.dtype))


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
        chunk_size: most regions in a chunk.

    Yields:
        [R, C, bins, bins] of the R regions of a chunk, in the order of the images.

    Raises:
        ValueError: boxes for another number of images.
    """
    rois = _rois(c3.extents_hw, boxes_cxcywh)
    # torchvision's RoIAlign computes in float32 or more. In half precision, matrix products are twice as fast.
    full_precision = c3.features.dtype in (torch.float32, torch.float64)
    for part in rois.split(chunk_size) if len(rois) else ():
        if full_precision:
            yield torchvision.ops.roi_align(c3.features, part, (bins, bins), aligned=True)
        else:
            yield _align_in_half(c3.features, part, bins=bins)


def roi_weights(
    boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int, height: int, width: int, adaptive: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights w of RoIAlign as matrices: a pooled channel is w_rows @ channel @ w_columns^T.

    Args:
        boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image; widths and heights up to 1 unless `adaptive`.
        extents_hw: [B, 2] (height, width) of each image in cells of the map, without padding.
        bins: number of bins along each axis.
        height: rows of the padded maps.
        width: columns of the padded maps.
        adaptive: compute only as many samples as the largest box needs: faster, but not traceable.

    Returns:
        [B, N, bins, height] for the rows and [B, N, bins, width] for the columns.
    """
    left, top, right, bottom = scale_to_pixels(boxes_cxcywh, extents_hw).unbind(-1)
    weights = _adaptive_weights if adaptive else axis_weights
    return weights(top, bottom, bins=bins, length=height), weights(left, right, bins=bins, length=width)


def axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int, max_samples: int | None = None) -> Tensor:
    """RoIAlign along one axis as a matrix.

    As in torchvision, a bin averages ceil(extent / bins) samples, and samples more than a cell off the map count as 0.

    Args:
        low: [...] lower ends of the boxes, in cells.
        high: [...] upper ends; extents (high - low) are at most `length` unless `max_samples` is given.
        bins: number of bins.
        length: cells along the axis.
        max_samples: upper bound on the samples of a bin; None for ceil(length / bins), which suffices for boxes up to
            the size of the map.

    Returns:
        [..., bins, length].
    """
    low, extent = low[..., None, None] - 0.5, (high - low)[..., None, None]
    samples_per_bin = (extent / bins).ceil()
    divisor = samples_per_bin.clamp(min=1)
    step = torch.arange(max_samples or (length + bins - 1) // bins, device=low.device, dtype=low.dtype)
    bin_index = torch.arange(bins, device=low.device, dtype=low.dtype).unsqueeze(1)
    samples = low + (bin_index + (step + 0.5) / divisor) * extent / bins  # [..., bins, max_samples]
    valid = (step < samples_per_bin) & (samples >= -1) & (samples <= length)
    cell = torch.arange(length, device=low.device, dtype=low.dtype)
    weights = (1 - (samples.clamp(0, length - 1).unsqueeze(-1) - cell).abs()).clamp(min=0)
    return (weights * valid.unsqueeze(-1).to(weights.dtype)).sum(dim=-2) / divisor


def _adaptive_weights(low: Tensor, high: Tensor, *, bins: int, length: int) -> Tensor:
    """`axis_weights` with only as many samples as the largest box needs; not traceable."""
    max_samples = max(1, int(((high - low) / bins).ceil().max())) if low.numel() else 1
    return axis_weights(low, high, bins=bins, length=length, max_samples=max_samples)


def _apply_weights(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pool maps [B, C, h, w] by row weights [B, K, bins, h] and column weights [B, K, bins, w] of `roi_weights`.

    Returns [B, K, C, bins, bins], channels last in memory.
    """
    batch, channels, height, width = features.shape
    count, bins = rows.shape[1:3]
    # Channels last, so that every matrix product reads and writes contiguous cells.
    cells = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    strips = (rows.flatten(1, 2) @ cells).view(batch, count, bins, width, channels)
    return (columns.unsqueeze(2) @ strips).permute(0, 1, 4, 2, 3)


def _align_in_half(features: Tensor, rois: Tensor, *, bins: int) -> Tensor:
    """RoIAlign in the precision of the maps [B, C, H, W], for `rois` [R, 5] from `_rois`: [R, C, bins, bins]."""
    _, channels, height, width = features.shape
    pooled = features.new_empty(len(rois), bins, bins, channels).permute(0, 3, 1, 2)
    images, left, top, right, bottom = rois.unbind(dim=1)
    rows = _adaptive_weights(top, bottom, bins=bins, length=height).to(features.dtype)
    columns = _adaptive_weights(left, right, bins=bins, length=width).to(features.dtype)
    features = features.contiguous(memory_format=torch.channels_last)  # once, not in every call below
    for image in images.long().unique().tolist():
        for chosen in (images == image).nonzero()[:, 0].split(_REGIONS_AT_ONCE):
            pooled[chosen] = _apply_weights(features[image : image + 1], rows[None, chosen], columns[None, chosen])[0]
    return pooled


def _rois(extents: Tensor, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
    """Boxes in torchvision's RoI format [sum N_i, 5]: image index, then xyxy in cells of the map."""
    check_images(boxes_cxcywh, len(extents))
    rows = []
    for index, boxes in enumerate(boxes_cxcywh):
        corners = scale_to_pixels(boxes.to(extents.dtype), extents[index])
        rows.append(torch.cat([torch.full_like(corners[:, :1], index), corners], dim=1))
    return torch.cat(rows)


def check_images(boxes_cxcywh: Tensor | Sequence[Tensor], images: int) -> None:
    """Check that the boxes are given for as many images as the maps have.

    Raises:
        ValueError: boxes for another number of images.
    """
    given = boxes_cxcywh.shape[0] if isinstance(boxes_cxcywh, Tensor) else len(boxes_cxcywh)
    if given != images:
        raise ValueError(f"boxes_cxcywh: expected boxes for {images} images, got {given}")
