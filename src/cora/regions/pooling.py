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
        embeddings.append(_attend(query, tokens, torch.ones_like(tokens[..., 0]), attention_pool))
    return _concatenate(embeddings, attention_pool)


def fast_pooling(
    c4: FeatureMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    attention_pool: AttentionPool2d,
    positions: Tensor,
    chunk_size: int = 256,
) -> Tensor:
    """Embed regions without layer4 for each: RoIAlign of the projected C4 to S x S, attention, unit norm.

    The mean of the pooled queries, with the first projected position, attends over the cells only (the mean
    token of `exact_pooling` is no key here). RoIAlign commutes with the projections; their biases are part of
    the projected map, so they fade with the share of a cell that lies on the map, its coverage.

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
    ground = torch.ones_like(c4.features[:, :1])
    query_projection = attention_pool.q_proj
    embeddings = []
    for rois in _rois(c4, boxes_cxcywh).split(chunk_size):
        cells = roi_align(c4.features, rois, (side, side), aligned=True).flatten(2).transpose(1, 2)
        coverage = roi_align(ground, rois, (side, side), aligned=True).flatten(1)
        query = F.linear(cells.mean(dim=1) + positions[0], query_projection.weight)
        query = query + coverage.mean(dim=1, keepdim=True) * query_projection.bias
        embeddings.append(_attend(query, cells + positions[1:], coverage, attention_pool))
    return _concatenate(embeddings, attention_pool)


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


def _attend(query: Tensor, tokens: Tensor, coverage: Tensor, pool: AttentionPool2d) -> Tensor:
    """Multi-head attention of one projected query [R, C] over unprojected tokens [R, T, C]; returns [R, D].

    Keys are W_k token + b_k coverage, values likewise, coverage [R, T] in 0..1.
    """
    heads, channels = pool.num_heads, tokens.shape[-1]
    query = query.unflatten(-1, (heads, -1)) * (channels // heads) ** -0.5
    key_weight = pool.k_proj.weight.unflatten(0, (heads, -1))
    value_weight = pool.v_proj.weight.unflatten(0, (heads, -1))
    scores = torch.einsum("rhd,hdc->rhc", query, key_weight) @ tokens.transpose(1, 2)
    bias = (query * pool.k_proj.bias.unflatten(0, (heads, -1))).sum(dim=-1, keepdim=True)
    attention = (scores + bias * coverage[:, None]).softmax(dim=-1)
    values = torch.einsum("rhc,hdc->rhd", attention @ tokens, value_weight)
    values = values + (attention @ coverage[..., None]) * pool.v_proj.bias.unflatten(0, (heads, -1))
    embeddings: Tensor = F.normalize(pool.c_proj(values.flatten(1)), dim=-1)
    return embeddings


def _concatenate(embeddings: list[Tensor], pool: AttentionPool2d) -> Tensor:
    if not embeddings:
        nothing: Tensor = pool.c_proj.weight.new_zeros(0, pool.c_proj.out_features)
        return nothing
    return torch.cat(embeddings)
