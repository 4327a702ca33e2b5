"""Region pooling for a graph that other runtimes execute: products of matrices only, no operator for regions.

RoIAlign averages a regular grid of bilinear samples, hence is a product of one matrix for the rows and one for the
columns. The numbers are those of torchvision's `roi_align(aligned=True)` with its adaptive number of samples; only
the order of the sums differs. Shapes do not depend on values, so that sizes and batch may stay open in the graph.
"""

from __future__ import annotations

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import scale_to_pixels

#: Regions pooled at once from C3: bounds the memory of the product with the rows.
CHUNK = 64


def exact_pooling(
    c3: Tensor,
    boxes_cxcywh: Tensor,
    extents_hw: Tensor,
    *,
    layer4: nn.Module,
    pool: AttentionPool2d,
    positions: Tensor,
) -> Tensor:
    """Embed regions through layer4, as `cora.regions.exact_pooling` does.

    Args:
        c3: [B, C3, h, w].
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image, sizes at most 1; K is a constant of the graph.
        extents_hw: [B, 2] cells of C3 that are not padding.
        layer4: last stage of the image tower.
        pool: attention pool of the tower.
        positions: [S*S+1, C4] table with the prompt added.

    Returns:
        [B, K, D], L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    count = boxes_cxcywh.shape[1]
    parts = [roi_align(c3, part, extents_hw, bins=2 * side) for part in boxes_cxcywh.split(CHUNK, dim=1)]
    cells = layer4(torch.cat(parts, dim=1).flatten(0, 1)).flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions
    heads = pool.num_heads
    query = pool.q_proj(tokens[:, 0]).unflatten(-1, (heads, -1))
    query = query * query.shape[-1] ** -0.5
    # As in the detector, projections are applied to the query and to the attended mean; the key's bias cancels out.
    key_weight = pool.k_proj.weight.unflatten(0, (heads, -1))
    value_weight = pool.v_proj.weight.unflatten(0, (heads, -1))
    attention = (torch.einsum("rhd,hdc->rhc", query, key_weight) @ tokens.transpose(1, 2)).softmax(dim=-1)
    values = torch.einsum("rhc,hdc->rhd", attention @ tokens, value_weight).flatten(1) + pool.v_proj.bias
    embeddings = F.normalize(pool.c_proj(values), dim=-1)
    regions: Tensor = embeddings.unflatten(0, (-1, count))
    return regions


def fast_pooling(
    c4: Tensor, boxes_cxcywh: Tensor, extents_hw: Tensor, *, pool: AttentionPool2d, positions: Tensor
) -> Tensor:
    """Embed regions without layer4 for each, as `cora.regions.fast_pooling` does.

    Args:
        c4: [B, C4, h, w].
        boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image, sizes at most 1.
        extents_hw: [B, 2] cells of C4 that are not padding.
        pool: attention pool of the tower.
        positions: [S*S+1, C4] table with the prompt added.

    Returns:
        [B, N, D], L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    heads, (height, width) = pool.num_heads, c4.shape[-2:]
    cells = c4.flatten(2).transpose(1, 2)
    queries, keys, values = (
        layer(cells).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
    )  # [B, heads, cells, d]
    first = F.linear(positions[0], pool.q_proj.weight).unflatten(0, (heads, 1, -1))
    place_keys, place_values = (
        F.linear(positions[1:], layer.weight).unflatten(-1, (heads, -1)).transpose(0, 1)
        for layer in (pool.k_proj, pool.v_proj)
    )  # [heads, S*S, d]
    rows, columns = _roi_weights(boxes_cxcywh, extents_hw, bins=side, height=height, width=width)
    mean = (rows.mean(2).unsqueeze(3) * columns.mean(2).unsqueeze(2)).flatten(2)  # [B, N, cells]
    query = (mean.unsqueeze(1) @ queries + first) * keys.shape[-1] ** -0.5  # [B, heads, N, d]
    scores = (query @ keys.transpose(2, 3)).transpose(1, 2).unflatten(-1, (height, width))  # [B, N, heads, h, w]
    scores = (rows.unsqueeze(2) @ scores @ columns.unsqueeze(2).transpose(-1, -2)).flatten(3)
    attention = (scores + (query @ place_keys.transpose(1, 2)).transpose(1, 2)).softmax(dim=-1)  # [B, N, heads, S*S]
    spread = rows.unsqueeze(2).transpose(-1, -2) @ attention.unflatten(-1, (side, side)) @ columns.unsqueeze(2)
    attended = spread.flatten(3).transpose(1, 2) @ values + attention.transpose(1, 2) @ place_values
    return F.normalize(pool.c_proj(attended.transpose(1, 2).flatten(2)), dim=-1)


def roi_align(features: Tensor, boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int) -> Tensor:
    """[B, C, h, w] and boxes [B, K, 4] to [B, K, C, bins, bins]; boxes and extents as in `exact_pooling`."""
    batch, channels, height, width = features.shape
    count = boxes_cxcywh.shape[1]
    rows, columns = _roi_weights(boxes_cxcywh, extents_hw, bins=bins, height=height, width=width)
    lines = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    lines = (rows.flatten(1, 2) @ lines).view(batch, count, bins, width, channels)
    pooled: Tensor = (columns.unsqueeze(2) @ lines).permute(0, 1, 4, 2, 3)
    return pooled


def _roi_weights(
    boxes_cxcywh: Tensor, extents_hw: Tensor, *, bins: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Matrices of RoIAlign: [B, N, bins, height] for the rows, [B, N, bins, width] for the columns."""
    left, top, right, bottom = scale_to_pixels(boxes_cxcywh, extents_hw).unbind(-1)
    rows = _axis_weights(top, bottom, bins=bins, length=height)
    return rows, _axis_weights(left, right, bins=bins, length=width)


def _axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int) -> Tensor:
    """RoIAlign along one axis: ends [B, N] in cells, at most `length` apart, to [B, N, bins, length].

    A bin takes ceil(extent / bins) samples, at most ceil(length / bins): a number known without the values.
    """
    low, extent = low[..., None, None] - 0.5, (high - low)[..., None, None]
    taken = (extent / bins).ceil()
    per_bin = taken.clamp(min=1)
    step = torch.arange((length + bins - 1) // bins, device=low.device, dtype=low.dtype)
    bin_index = torch.arange(bins, device=low.device, dtype=low.dtype).unsqueeze(1)
    samples = low + (bin_index + (step + 0.5) / per_bin) * extent / bins  # [B, N, bins, most]
    counted = (step < taken) & (samples >= -1) & (samples <= length)
    cell = torch.arange(length, device=low.device, dtype=low.dtype)
    weights = (1 - (samples.clamp(0, length - 1).unsqueeze(-1) - cell).abs()).clamp(min=0)
    return (weights * counted.unsqueeze(-1).to(weights.dtype)).sum(dim=-2) / per_bin
