"""Region embeddings of open_clip's ConvNeXts (`ConvNeXtTower`).

Exact pooling runs the last stage on each region and adds the region prompt before the stage's last block. Fast pooling
runs no block per region: it averages the last stage's output for the whole image over the region. It estimates the
prompt's effect once per image, on a grid of the image's mean cell: last_block(grid + prompt) - last_block(grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.regions.roi_align import align_all, align_regions, check_images, roi_weights
from cora.structures import FeatureMap
from cora.towers import ConvNeXtTower


@dataclass(frozen=True)
class StageMap:
    """The input of fast pooling, computed once for a batch.

    Attributes:
        cells: [B, h * w, C4] output of the last stage.
        mean: [B, C4] input of its last block, averaged over the cells that are not padding.
        size_hw: cells of the padded map (h, w).
        extents_hw: [B, 2] cells (height, width) of each image without padding.
    """

    cells: Tensor
    mean: Tensor
    size_hw: tuple[int, int]
    extents_hw: Tensor


def stage_map(c4: FeatureMap, tower: ConvNeXtTower) -> StageMap:
    """Run the last block on C4, which a `ConvNeXtTower` gives without it, for the whole image."""
    inside = (~c4.mask).unsqueeze(1).float()
    mean = (c4.features.float() * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
    cells = tower.last_block(c4.features).flatten(2).transpose(1, 2)
    height, width = c4.features.shape[-2:]
    return StageMap(cells, mean.to(cells.dtype), (height, width), c4.extents_hw)


def exact_stage_pooling(
    c3: FeatureMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    tower: ConvNeXtTower,
    prompt: Tensor,
    chunk_size: int = 128,
    static: bool = False,
) -> Tensor:
    """Embed regions through the last stage: RoIAlign of C3 to 2S x 2S, the stage to S x S, mean, head, unit norm.

    Args:
        c3: output of the third stage.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        tower: its last stage and head are used.
        prompt: [S*S, C4] added to the cells of every region before the last block, row by row.
        chunk_size: regions pooled at once; bounds the memory.
        static: traceable. `boxes_cxcywh` must be [B, N, 4] with widths and heights up to 1 and a constant N.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.

    Raises:
        ValueError: boxes for another number of images.
    """
    bins = 2 * tower.pool_size
    if static:
        assert isinstance(boxes_cxcywh, Tensor)
        return _finish(align_all(c3, boxes_cxcywh, bins=bins), tower, prompt)
    pooled = align_regions(c3, boxes_cxcywh, bins=bins, chunk_size=chunk_size)
    embeddings = [_finish(regions, tower, prompt) for regions in pooled]
    return torch.cat(embeddings) if embeddings else prompt.new_zeros(0, tower.embed_dim)


def fast_stage_pooling(
    prepared: StageMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    tower: ConvNeXtTower,
    prompt: Tensor,
    static: bool = False,
) -> Tensor:
    """Embed regions without a block per region: mean over RoIAlign's S x S bins, shift by the prompt, head, unit norm.

    RoIAlign is linear, so the mean over its bins is one weighted sum over the cells of the map.

    Args:
        prepared: from `stage_map`.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        tower: its last block and head are used.
        prompt: [S*S, C4] that exact pooling adds to the cells before the last block.
        static: traceable. `boxes_cxcywh` must be [B, N, 4] with widths and heights up to 1.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.

    Raises:
        ValueError: boxes for another number of images.
    """
    check_images(boxes_cxcywh, prepared.cells.shape[0])
    shift = _shift(prepared.mean, tower, prompt)
    if isinstance(boxes_cxcywh, Tensor):
        return _average(prepared, slice(None), boxes_cxcywh, shift, tower, static=static)
    parts = [
        _average(prepared, slice(image, image + 1), boxes.unsqueeze(0), shift[image : image + 1], tower, static=False)
        for image, boxes in enumerate(boxes_cxcywh)
    ]
    return torch.cat(parts)


def _finish(regions: Tensor, tower: ConvNeXtTower, prompt: Tensor) -> Tensor:
    """Regions of C3 [R, C3, 2S, 2S] to unit embeddings [R, D]."""
    cells = tower.before_last_block(regions) + _on_grid(prompt, tower)
    return tower.head(tower.last_block(cells).mean(dim=(2, 3)))


def _shift(mean: Tensor, tower: ConvNeXtTower, prompt: Tensor) -> Tensor:
    """How far the prompt moves the last block's mean output on a grid of mean cells: [B, C4] to [B, C4]."""
    side = tower.pool_size
    cells = mean[:, :, None, None].expand(-1, -1, side, side)
    return (tower.last_block(cells + _on_grid(prompt, tower)) - tower.last_block(cells)).mean(dim=(2, 3))


def _on_grid(prompt: Tensor, tower: ConvNeXtTower) -> Tensor:
    """The prompt [S*S, C4] as a map [1, C4, S, S]."""
    return prompt.T.reshape(1, -1, tower.pool_size, tower.pool_size)


def _average(
    prepared: StageMap, images: slice, boxes_cxcywh: Tensor, shift: Tensor, tower: ConvNeXtTower, *, static: bool
) -> Tensor:
    """Embed boxes [B, N, 4] of the chosen images: [B * N, D]."""
    cells, extents = prepared.cells[images], prepared.extents_hw[images]
    height, width = prepared.size_hw
    boxes = boxes_cxcywh.to(extents.dtype)
    rows, columns = roi_weights(
        boxes, extents, bins=tower.pool_size, height=height, width=width, adaptive=not static
    )  # [B, N, S, h], [B, N, S, w]
    weights = (rows.mean(2).unsqueeze(3) * columns.mean(2).unsqueeze(2)).flatten(2)  # [B, N, h*w]
    pooled = weights.to(cells.dtype) @ cells + shift.unsqueeze(1)
    return tower.head(pooled.flatten(0, 1))
