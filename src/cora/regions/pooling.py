"""Region embeddings of CLIP ResNets, as in the paper: exact pooling for final boxes, fast pooling for anchors.

Both end in CLIP's attention pool, with one query per region. Exact pooling runs layer4, the last stage, on every region
of C3. Fast pooling reads C4, layer4's output for the whole image.

In shapes, S is the side of the pool's grid (7 for RN50), C the channels of C4, d = C / heads, D the embedding width.
With `static=True` no tensor shape depends on box values, so that the code can be traced for other runtimes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F

from cora.roi_align import align_all, align_regions, check_images, roi_weights
from cora.structures import FeatureMap


def exact_pooling(
    c3: FeatureMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    layer4: nn.Module,
    attention_pool: AttentionPool2d,
    positions: Tensor,
    chunk_size: int = 128,
    static: bool = False,
) -> Tensor:
    """Embed regions through layer4: RoIAlign of C3 to 2S x 2S, layer4 to S x S, attention pool, unit norm.

    Args:
        c3: output of layer3, stride 16.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        layer4: last stage of the image tower, stride 2.
        attention_pool: its projections and heads are used, not its positional table.
        positions: [S*S + 1, C] the pool's positional table plus the region prompt, from `RegionPrompt`.
        chunk_size: regions pooled at once; bounds the memory.
        static: traceable. `boxes_cxcywh` must be [B, N, 4] with widths and heights up to 1 and a constant N.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.

    Raises:
        ValueError: boxes for another number of images.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    pooled: Iterable[Tensor]
    if static:
        assert isinstance(boxes_cxcywh, Tensor)
        pooled = [align_all(c3, boxes_cxcywh, bins=2 * side)]
    else:
        pooled = align_regions(c3, boxes_cxcywh, bins=2 * side, chunk_size=chunk_size)
    embeddings = []
    for regions in pooled:
        cells = layer4(regions).flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions
        query = attention_pool.q_proj(tokens[:, 0])
        embeddings.append(_attend(query, tokens, attention_pool))
    return _concatenate(embeddings, attention_pool)


@dataclass(frozen=True)
class ProjectedMap:
    """C4 after the attention pool's projections: the input of `fast_pooling`, computed once for a batch.

    Attributes:
        queries: [B, heads, h * w, d].
        keys: [B, heads, h * w, d].
        values: [B, heads, h * w, d].
        size_hw: (h, w), the size of the padded map in cells.
        extents_hw: [B, 2] (height, width) of each image in cells, without padding.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    size_hw: tuple[int, int]
    extents_hw: Tensor

    def of_image(self, image: int) -> Self:
        """The map of the image with this index in the batch, as a batch of one."""
        one = slice(image, image + 1)
        return type(self)(self.queries[one], self.keys[one], self.values[one], self.size_hw, self.extents_hw[one])


def project_map(c4: FeatureMap, attention_pool: AttentionPool2d) -> ProjectedMap:
    """Apply the pool's query, key and value projections to every cell of C4, the output of layer4."""
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
    static: bool = False,
) -> Tensor:
    """Embed regions without layer4 per region: RoIAlign of the projected C4 to S x S, attention, unit norm.

    A region's query is the mean of its pooled queries plus the projected position of the mean token. Its keys are the
    S x S cells; only `exact_pooling` uses the mean token as a key, too. RoIAlign is linear, so pooling the attention
    scores instead of the keys and values gives the same result, and scores are smaller than maps.

    Args:
        projected: from `project_map`.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        attention_pool: its projections and heads are used, not its positional table.
        positions: [S*S + 1, C] the pool's positional table plus the region prompt.
        chunk_size: regions of an image pooled at once; bounds the memory.
        static: traceable. `boxes_cxcywh` must be [B, N, 4] with widths and heights up to 1.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.

    Raises:
        ValueError: boxes for another number of images.
    """
    projected_positions = _project_positions(positions, attention_pool)
    if static:
        assert isinstance(boxes_cxcywh, Tensor)
        return _attend_map(projected, boxes_cxcywh, projected_positions, attention_pool, adaptive=False).flatten(0, 1)
    check_images(boxes_cxcywh, len(projected.extents_hw))
    embeddings = [
        _attend_map(projected.of_image(image), part.unsqueeze(0), projected_positions, attention_pool, adaptive=True)[0]
        for image, boxes in enumerate(boxes_cxcywh)
        for part in (boxes.split(chunk_size) if len(boxes) else ())
    ]
    return _concatenate(embeddings, attention_pool)


@dataclass(frozen=True)
class _Positions:
    """Prompted positions after the pool's projections, without bias.

    Attributes:
        query: [heads, 1, d] of the mean token.
        keys: [heads, S*S, d] of the cells.
        values: [heads, S*S, d] of the cells.
        side: S.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    side: int


def _project_positions(positions: Tensor, pool: AttentionPool2d) -> _Positions:
    # Without bias, which the projections of the map add already.
    query = F.linear(positions[0], pool.q_proj.weight).unflatten(0, (pool.num_heads, 1, -1))
    keys, values = (
        F.linear(positions[1:], layer.weight).unflatten(-1, (pool.num_heads, -1)).transpose(0, 1)
        for layer in (pool.k_proj, pool.v_proj)
    )
    return _Positions(query, keys, values, round(len(positions[1:]) ** 0.5))


def _attend_map(
    projected: ProjectedMap, boxes_cxcywh: Tensor, positions: _Positions, pool: AttentionPool2d, *, adaptive: bool
) -> Tensor:
    """Attention pool of each region over its S x S cells: boxes [B, N, 4] to unit embeddings [B, N, D].

    `adaptive` as in `roi_weights`.
    """
    queries, keys, values = projected.queries, projected.keys, projected.values  # [B, heads, h*w, d]
    (height, width), side = projected.size_hw, positions.side
    boxes = boxes_cxcywh.to(projected.extents_hw.dtype)
    weights = roi_weights(boxes, projected.extents_hw, bins=side, height=height, width=width, adaptive=adaptive)
    rows, columns = (part.to(keys.dtype) for part in weights)  # [B, N, S, h], [B, N, S, w]
    mean_weights = (rows.mean(2).unsqueeze(3) * columns.mean(2).unsqueeze(2)).flatten(2)  # [B, N, h*w]
    query = (mean_weights.unsqueeze(1) @ queries + positions.query) * keys.shape[-1] ** -0.5  # [B, heads, N, d]
    scores = (query @ keys.transpose(2, 3)).transpose(1, 2).unflatten(-1, (height, width))
    scores = _along_rows(_along_columns(scores, columns.transpose(2, 3)), rows).flatten(3)  # [B, N, heads, S*S]
    attention = (scores + (query @ positions.keys.transpose(1, 2)).transpose(1, 2)).softmax(dim=-1)
    map_weights = _along_columns(attention.unflatten(-1, (side, side)), columns)
    map_weights = _along_rows(map_weights, rows.transpose(2, 3)).flatten(3)  # [B, N, heads, h*w]
    attended = map_weights.transpose(1, 2) @ values + attention.transpose(1, 2) @ positions.values
    return F.normalize(pool.c_proj(attended.transpose(1, 2).flatten(2)), dim=-1)


def _along_columns(maps: Tensor, weights: Tensor) -> Tensor:
    """Resample x to u: maps [B, N, heads, y, x], weights [B, N, x, u] to [B, N, heads, y, u]; heads share a matmul."""
    products: Tensor = (maps.flatten(2, 3) @ weights).unflatten(2, maps.shape[2:4])
    return products


def _along_rows(maps: Tensor, weights: Tensor) -> Tensor:
    """Resample y to v: maps [B, N, heads, y, x], weights [B, N, v, y] to [B, N, heads, v, x]; heads share a matmul."""
    heads, columns = maps.shape[2], maps.shape[4]
    side_by_side = maps.transpose(2, 3).flatten(3)  # [B, N, y, heads * x]
    products: Tensor = (weights @ side_by_side).unflatten(-1, (heads, columns))
    return products.transpose(2, 3)


def _attend(query: Tensor, tokens: Tensor, pool: AttentionPool2d) -> Tensor:
    """Attention pool with one query per region: projected query [R, C], unprojected tokens [R, T, C] to [R, D].

    Keys and values are not projected token by token. Since q . (W k) = (W^T q) . k, the key projection W is applied to
    the single query, and the value projection to the single weighted mean of the tokens, which costs less.
    """
    heads, channels = pool.num_heads, tokens.shape[-1]
    query = query.unflatten(-1, (heads, -1)) * (channels // heads) ** -0.5
    key_weight = pool.k_proj.weight.unflatten(0, (heads, -1))
    value_weight = pool.v_proj.weight.unflatten(0, (heads, -1))
    # The bias of the keys is left out: it shifts all scores of a query alike, which softmax ignores.
    attention = (torch.einsum("rhd,hdc->rhc", query, key_weight) @ tokens.transpose(1, 2)).softmax(dim=-1)
    values = torch.einsum("rhc,hdc->rhd", attention @ tokens, value_weight)
    values = values + pool.v_proj.bias.unflatten(0, (heads, -1))
    return F.normalize(pool.c_proj(values.flatten(1)), dim=-1)


def _concatenate(embeddings: list[Tensor], pool: AttentionPool2d) -> Tensor:
    """Join chunks [R_i, D] to [sum R_i, D], which may be empty."""
    if not embeddings:
        empty: Tensor = pool.c_proj.weight.new_zeros(0, pool.c_proj.out_features)
        return empty
    return torch.cat(embeddings)
