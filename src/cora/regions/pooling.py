"""Embeddings of regions: exact pooling for final boxes, fast pooling for anchors (METHOD section 3).

Both share one attention with a single query. Its projections are applied to the query and to the attended
mean instead of to every cell, (q . W k) = (W' q . k): the same numbers with a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import scale_to_pixels
from cora.structures import FeatureMap


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
    embeddings = []
    for rois in _rois(c3, boxes_cxcywh).split(chunk_size):
        cells = layer4(roi_align(c3.features, rois, (2 * side, 2 * side), aligned=True))
        cells = cells.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions
        query = attention_pool.q_proj(tokens[:, 0])
        embeddings.append(_attend(query, tokens, attention_pool))
    return _concatenate(embeddings, attention_pool)


def fast_pooling(
    c4: FeatureMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    attention_pool: AttentionPool2d,
    positions: Tensor,
    chunk_size: int = 256,
) -> Tensor:
    """Embed regions without layer4 per region: RoIAlign of the projected C4 to S x S, attention, unit norm.

    The mean of the pooled queries, with the first projected position, attends over the cells only (the mean token
    of `exact_pooling` is no key here). C4 is projected once; RoIAlign is a weighted sum over cells that splits into
    one over rows and one over columns, so it is applied to the scores and to the attention instead of to the maps.

    Args:
        c4: output of layer4.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        attention_pool: its projections and heads are used, not its positional table.
        positions: [S*S+1, C4] table with the prompt added.
        chunk_size: regions pooled at once; bounds the memory.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    pool, heads, (height, width) = attention_pool, attention_pool.num_heads, c4.features.shape[-2:]
    cells = c4.features.flatten(2).transpose(1, 2)
    # [B, heads, cells, d] and [heads, S*S, d]: every product with a weight is made once for a map.
    queries, keys, values = (
        layer(cells).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    first = F.linear(positions[0], pool.q_proj.weight).unflatten(0, (heads, 1, -1))
    place_keys, place_values = (
        F.linear(positions[1:], layer.weight).unflatten(-1, (heads, -1)).transpose(0, 1)
        for layer in (pool.k_proj, pool.v_proj)
    )
    embeddings = []
    rois = _rois(c4, boxes_cxcywh)
    starts = 0
    for image, boxes in enumerate(boxes_cxcywh):
        for part in rois[starts : starts + len(boxes), 1:].split(chunk_size):
            columns = _axis_weights(part[:, 0], part[:, 2], bins=side, length=width)  # [R, S, w]
            rows = _axis_weights(part[:, 1], part[:, 3], bins=side, length=height)  # [R, S, h]
            mean = (rows.mean(1)[:, :, None] * columns.mean(1)[:, None, :]).flatten(1)
            query = (mean @ queries[image] + first) * keys.shape[-1] ** -0.5  # [heads, R, d]
            scores = (query @ keys[image].transpose(1, 2)).transpose(0, 1).unflatten(-1, (height, width))
            scores = (rows[:, None] @ scores @ columns[:, None].transpose(-1, -2)).flatten(2)  # [R, heads, S*S]
            scores = scores + (query @ place_keys.transpose(1, 2)).transpose(0, 1)
            attention = scores.softmax(dim=-1)
            spread = rows[:, None].transpose(-1, -2) @ attention.unflatten(-1, (side, side)) @ columns[:, None]
            attended = spread.flatten(2).transpose(0, 1) @ values[image] + attention.transpose(0, 1) @ place_values
            embeddings.append(F.normalize(pool.c_proj(attended.transpose(0, 1).flatten(1)), dim=-1))
        starts += len(boxes)
    return _concatenate(embeddings, pool)


def _axis_weights(low: Tensor, high: Tensor, *, bins: int, length: int) -> Tensor:
    """RoIAlign along one axis as a matrix: [R] and [R] ends in cells to [R, bins, length].

    RoIAlign averages a regular grid of bilinear samples, hence is a product of one such matrix for each axis. As in
    torchvision, a bin takes ceil(extent / bins) samples; samples more than a cell off the map count as zero.
    """
    low, extent = low[:, None, None] - 0.5, (high - low)[:, None, None]
    taken = (extent / bins).ceil()
    per_bin = taken.clamp(min=1)
    most = int(per_bin.max()) if len(low) else 1
    step = torch.arange(most, device=low.device, dtype=low.dtype)
    bin_index = torch.arange(bins, device=low.device, dtype=low.dtype)[:, None]
    samples = low + (bin_index + (step + 0.5) / per_bin) * extent / bins  # [R, bins, most]
    counted = (step < taken) & (samples >= -1) & (samples <= length)
    cell = torch.arange(length, device=low.device, dtype=low.dtype)
    weights = (1 - (samples.clamp(0, length - 1)[..., None] - cell).abs()).clamp(min=0)
    return (weights * counted[..., None]).sum(dim=-2) / per_bin


def _rois(feature_map: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
    """[sum N_i, 5]: index of the image and corners in cells of the unpadded map."""
    count = feature_map.features.shape[0]
    if len(boxes_cxcywh) != count:
        raise ValueError(f"boxes_cxcywh: expected boxes for {count} images, got {len(boxes_cxcywh)}")
    extents = feature_map.extents_hw
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
