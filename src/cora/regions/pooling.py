"""Embeddings of regions: exact pooling for final boxes, fast pooling for anchors (METHOD section 3).

Both share one attention with a single query. Its projections are applied to the query and to the attended
mean instead of to every cell, (q . W k) = (W' q . k): the same numbers with a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import scale_to_pixels
from cora.regions.roi_align import axis_weights
from cora.structures import FeatureMap

#: Regions whose strips [bins, W, C] are held at once.
_REGIONS_AT_ONCE = 8


def exact_pooling(
    c3: FeatureMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    layer4: nn.Module,
    attention_pool: AttentionPool2d,
    positions: Tensor,
    chunk_size: int = 128,
) -> Tensor:
    """Embed regions through layer4: RoIAlign of C3 to 2S x 2S, layer4 to S x S, attention pool, unit norm.

    Args:
        c3: output of layer3.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        layer4: last stage of the image tower.
        attention_pool: its projections and heads are used, not its positional table.
        positions: [S*S+1, C4] table with the prompt added.
        chunk_size: regions pooled at once; bounds the memory.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    # torchvision's RoIAlign computes in single precision at least; in half precision products are twice as fast.
    align = _align if c3.features.dtype in (torch.float32, torch.float64) else _align_by_products
    embeddings = []
    for rois in _rois(c3.extents_hw, boxes_cxcywh).split(chunk_size):
        cells = layer4(align(c3.features, rois, bins=2 * side)).flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions
        query = attention_pool.q_proj(tokens[:, 0])
        embeddings.append(_attend(query, tokens, attention_pool))
    return _concatenate(embeddings, attention_pool)


def _align(features: Tensor, rois: Tensor, *, bins: int) -> Tensor:
    """RoIAlign of maps [B, C, H, W] by torchvision: [R, C, bins, bins]."""
    pooled: Tensor = roi_align(features, rois, (bins, bins), aligned=True)
    return pooled


def _align_by_products(features: Tensor, rois: Tensor, *, bins: int) -> Tensor:
    """`_align` as one matrix product over rows and one over columns: [R, C, bins, bins], channels last in memory."""
    batch, channels, height, width = features.shape
    # Channels last, so that every product reads and writes whole cells.
    rows_of_cells = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    pooled = features.new_empty(len(rois), bins, bins, channels)
    images, left, top, right, bottom = rois.unbind(dim=1)
    rows = _axis_weights(top, bottom, bins=bins, length=height).to(features.dtype)
    columns = _axis_weights(left, right, bins=bins, length=width).to(features.dtype)
    for image in images.long().unique().tolist():
        for places in (images == image).nonzero()[:, 0].split(_REGIONS_AT_ONCE):
            strips = (rows[places].flatten(0, 1) @ rows_of_cells[image]).view(-1, width, channels)  # [R * bins, W, C]
            pooled[places] = (columns[places].repeat_interleave(bins, dim=0) @ strips).view(-1, bins, bins, channels)
    return pooled.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ProjectedMap:
    """C4 after the projections of the attention pool: the input of `fast_pooling`, computed once for a map.

    Attributes:
        queries: [B, heads, H * W, d]; `keys` and `values` likewise.
        size_hw: cells of the padded map (H, W).
        extents_hw: [B, 2] cells of each image without padding.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    size_hw: tuple[int, int]
    extents_hw: Tensor


def project_map(c4: FeatureMap, attention_pool: AttentionPool2d) -> ProjectedMap:
    """Apply the query, key and value projections of the pool to every cell of C4."""
    pool, (height, width) = attention_pool, c4.features.shape[-2:]
    cells = c4.features.flatten(2).transpose(1, 2)
    queries, keys, values = (
        layer(cells).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    return ProjectedMap(queries, keys, values, (height, width), c4.extents_hw)


def fast_pooling(
    projected: ProjectedMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    attention_pool: AttentionPool2d,
    positions: Tensor,
    chunk_size: int = 256,
) -> Tensor:
    """Embed regions without layer4 per region: RoIAlign of the projected C4 to S x S, attention, unit norm.

    The mean of the pooled queries, with the first projected position, attends over the cells only (the mean token
    of `exact_pooling` is no key here). RoIAlign is a weighted sum over cells that splits into one over rows and one
    over columns, so it is applied to the scores and to the attention instead of to the maps.

    Args:
        projected: of `project_map`.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        attention_pool: its projections and heads are used, not its positional table.
        positions: [S*S+1, C4] table with the prompt added.
        chunk_size: regions pooled at once; bounds the memory.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    pool, heads, (height, width) = attention_pool, attention_pool.num_heads, projected.size_hw
    first = F.linear(positions[0], pool.q_proj.weight).unflatten(0, (heads, 1, -1))
    place_keys, place_values = (
        F.linear(positions[1:], layer.weight).unflatten(-1, (heads, -1)).transpose(0, 1)
        for layer in (pool.k_proj, pool.v_proj)
    )
    embeddings = []
    rois = _rois(projected.extents_hw, boxes_cxcywh)
    starts = 0
    for image, boxes in enumerate(boxes_cxcywh):
        queries, keys, values = projected.queries[image], projected.keys[image], projected.values[image]
        for part in rois[starts : starts + len(boxes), 1:].split(chunk_size):
            columns = _axis_weights(part[:, 0], part[:, 2], bins=side, length=width).to(keys.dtype)  # [R, S, w]
            rows = _axis_weights(part[:, 1], part[:, 3], bins=side, length=height).to(keys.dtype)  # [R, S, h]
            mean = (rows.mean(1)[:, :, None] * columns.mean(1)[:, None, :]).flatten(1)
            query = (mean @ queries + first) * keys.shape[-1] ** -0.5  # [heads, R, d]
            scores = (query @ keys.transpose(1, 2)).transpose(0, 1).unflatten(-1, (height, width))
            scores = _along_rows(_along_columns(scores, columns.transpose(1, 2)), rows).flatten(2)  # [R, heads, S*S]
            scores = scores + (query @ place_keys.transpose(1, 2)).transpose(0, 1)
            attention = scores.softmax(dim=-1)
            spread = _along_columns(attention.unflatten(-1, (side, side)), columns)
            spread = _along_rows(spread, rows.transpose(1, 2)).flatten(2)  # [R, heads, h*w]
            attended = spread.transpose(0, 1) @ values + attention.transpose(0, 1) @ place_values
            embeddings.append(F.normalize(pool.c_proj(attended.transpose(0, 1).flatten(1)), dim=-1))
        starts += len(boxes)
    return _concatenate(embeddings, pool)


def _along_columns(maps: Tensor, weights: Tensor) -> Tensor:
    """[R, heads, y, x] with [R, x, u] to [R, heads, y, u]: one product for all heads of a region."""
    products: Tensor = (maps.flatten(1, 2) @ weights).unflatten(1, maps.shape[1:3])
    return products


def _along_rows(maps: Tensor, weights: Tensor) -> Tensor:
    """[R, heads, y, x] with [R, v, y] to [R, heads, v, x]: one product for all heads of a region."""
    heads, columns = maps.shape[1], maps.shape[3]
    side_by_side = maps.transpose(1, 2).flatten(2)  # [R, y, heads * x]
    products: Tensor = (weights @ side_by_side).unflatten(-1, (heads, columns))
    return products.transpose(1, 2)


def _axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int) -> Tensor:
    """`axis_weights` of [R] extents with no more samples than the largest of them needs: [R, bins, length]."""
    most = max(1, int(((high - low) / bins).ceil().max())) if len(low) else 1
    return axis_weights(low, high, bins=bins, length=length, most=most)


def _rois(extents: Tensor, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
    """[sum N_i, 5]: index of the image and corners in cells of the unpadded map, whose extents are [B, 2]."""
    if len(boxes_cxcywh) != len(extents):
        raise ValueError(f"boxes_cxcywh: expected boxes for {len(extents)} images, got {len(boxes_cxcywh)}")
    rows = []
    for index, boxes in enumerate(boxes_cxcywh):
        corners = scale_to_pixels(boxes.to(extents.dtype), extents[index])
        rows.append(torch.cat([torch.full_like(corners[:, :1], index), corners], dim=1))
    return torch.cat(rows)


def _attend(query: Tensor, tokens: Tensor, pool: AttentionPool2d) -> Tensor:
    """Multi-head attention of one projected query [R, C] over unprojected tokens [R, T, C]; returns [R, D]."""
    heads, channels = pool.num_heads, tokens.shape[-1]
    query = query.unflatten(-1, (heads, -1)) * (channels // heads) ** -0.5
    key_weight = pool.k_proj.weight.unflatten(0, (heads, -1))
    value_weight = pool.v_proj.weight.unflatten(0, (heads, -1))
    # The key's bias adds the same to every score of a query, so the softmax does not see it.
    attention = (torch.einsum("rhd,hdc->rhc", query, key_weight) @ tokens.transpose(1, 2)).softmax(dim=-1)
    values = torch.einsum("rhc,hdc->rhd", attention @ tokens, value_weight)
    values = values + pool.v_proj.bias.unflatten(0, (heads, -1))
    embeddings: Tensor = F.normalize(pool.c_proj(values.flatten(1)), dim=-1)
    return embeddings


def _concatenate(embeddings: list[Tensor], pool: AttentionPool2d) -> Tensor:
    if not embeddings:
        nothing: Tensor = pool.c_proj.weight.new_zeros(0, pool.c_proj.out_features)
        return nothing
    return torch.cat(embeddings)
