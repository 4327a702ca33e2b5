"""Region pooling of CLIP ResNets for a graph that other runtimes execute: products of matrices only.

The numbers are those of `cora.regions`, whose way is faster in PyTorch but has shapes that depend on values; here sizes
and batch may stay open. Poolings that are traceable as they are go into the graph themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F

from cora.regions import Prepared, ProjectedMap, RegionPooling, project_map, region_pooling
from cora.regions.roi_align import roi_align, roi_weights
from cora.structures import FeatureMap
from cora.towers import ImageTower, ResNetTower

#: Regions pooled at once from C3: bounds the memory of the product with the rows.
CHUNK = 64


def graph_pooling(tower: ImageTower) -> RegionPooling:
    """How regions of a tower's maps are embedded in a graph."""
    return _Attention(tower) if isinstance(tower, ResNetTower) else region_pooling(tower)


class _Attention:
    """Layer4 and attention pool of a CLIP ResNet."""

    def __init__(self, tower: ResNetTower) -> None:
        self.tower = tower

    def exact(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        assert isinstance(boxes_cxcywh, Tensor)
        return exact_pooling(
            c3.features,
            boxes_cxcywh,
            c3.extents_hw,
            layer4=self.tower.layer4,
            pool=self.tower.attention_pool,
            positions=positions,
        ).flatten(0, 1)

    def prepare(self, c4: FeatureMap) -> ProjectedMap:
        return project_map(c4, self.tower.attention_pool)

    def fast(self, prepared: Prepared, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        assert isinstance(prepared, ProjectedMap)
        assert isinstance(boxes_cxcywh, Tensor)
        return fast_pooling(prepared, boxes_cxcywh, pool=self.tower.attention_pool, positions=positions).flatten(0, 1)


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


def fast_pooling(projected: ProjectedMap, boxes_cxcywh: Tensor, *, pool: AttentionPool2d, positions: Tensor) -> Tensor:
    """Embed regions without layer4 for each, as `cora.regions.fast_pooling` does.

    Args:
        projected: of `project_map`.
        boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image, sizes at most 1.
        pool: attention pool of the tower.
        positions: [S*S+1, C4] table with the prompt added.

    Returns:
        [B, N, D], L2-normalised.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    heads, (height, width) = pool.num_heads, projected.size_hw
    queries, keys, values = projected.queries, projected.keys, projected.values  # [B, heads, cells, d]
    first = F.linear(positions[0], pool.q_proj.weight).unflatten(0, (heads, 1, -1))
    place_keys, place_values = (
        F.linear(positions[1:], layer.weight).unflatten(-1, (heads, -1)).transpose(0, 1)
        for layer in (pool.k_proj, pool.v_proj)
    )  # [heads, S*S, d]
    rows, columns = roi_weights(boxes_cxcywh, projected.extents_hw, bins=side, height=height, width=width)
    mean = (rows.mean(2).unsqueeze(3) * columns.mean(2).unsqueeze(2)).flatten(2)  # [B, N, cells]
    query = (mean.unsqueeze(1) @ queries + first) * keys.shape[-1] ** -0.5  # [B, heads, N, d]
    scores = (query @ keys.transpose(2, 3)).transpose(1, 2).unflatten(-1, (height, width))  # [B, N, heads, h, w]
    scores = (rows.unsqueeze(2) @ scores @ columns.unsqueeze(2).transpose(-1, -2)).flatten(3)
    attention = (scores + (query @ place_keys.transpose(1, 2)).transpose(1, 2)).softmax(dim=-1)  # [B, N, heads, S*S]
    spread = rows.unsqueeze(2).transpose(-1, -2) @ attention.unflatten(-1, (side, side)) @ columns.unsqueeze(2)
    attended = spread.flatten(3).transpose(1, 2) @ values + attention.transpose(1, 2) @ place_values
    return F.normalize(pool.c_proj(attended.transpose(1, 2).flatten(2)), dim=-1)
