"""Region embeddings of open_clip's ConvNeXts (`ConvNeXtTower`); the paper has only ResNets.

Exact pooling runs the last stage on each region and adds the region prompt before the stage's last block. Fast pooling
runs no block per region. It averages the last stage's output for the whole image over the region, and adds an estimate
of the prompt's effect. The estimate is made once per image, from a grid whose S x S cells all are the image's mean
cell: last_block(grid + prompt) - last_block(grid).

In shapes, S is the side of the grid, C the channels of the last stage, D the embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.roi_align import align_all, align_regions, check_images, roi_weights
from cora.structures import FeatureMap
from cora.towers import ConvNeXtTower


@dataclass(frozen=True)
class StageMap:
    """The input of fast pooling, computed once for a batch.

    Attributes:
        cells: [B, h * w, C] output of the last stage.
        mean: [B, C] input of its last block, averaged over the cells that are not padding.
        size_hw: (h, w), the size of the padded map in cells.
        extents_hw: [B, 2] (height, width) of each image in cells, without padding.
    """

    cells: Tensor
    mean: Tensor
    size_hw: tuple[int, int]
    extents_hw: Tensor


def stage_map(c4: FeatureMap, tower: ConvNeXtTower) -> StageMap:
    """Run the last block on the whole image: C4 of a `ConvNeXtTower` is the input of that block, not its output."""
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
        c3: output of the third stage, stride 16.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        tower: its last stage and head are used.
        prompt: [S*S, C] added to the cells of every region before the last block, row by row.
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
        return _embed_regions(align_all(c3, boxes_cxcywh, bins=bins), tower, prompt)
    chunks = align_regions(c3, boxes_cxcywh, bins=bins, chunk_size=chunk_size)
    embeddings = [_embed_regions(regions, tower, prompt) for regions in chunks]
    return torch.cat(embeddings) if embeddings else prompt.new_zeros(0, tower.embed_dim)


def fast_stage_pooling(
    prepared: StageMap,
    boxes_cxcywh: Tensor | Sequence[Tensor],
    *,
    tower: ConvNeXtTower,
    prompt: Tensor,
    static: bool = False,
) -> Tensor:
    """Embed regions without a block per region: mean of the S x S bins, plus the prompt's effect, head, unit norm.

    RoIAlign is linear, so the mean over its bins is one weighted sum over the cells of the map.

    Args:
        prepared: from `stage_map`.
        boxes_cxcywh: one [N_i, 4] per image (or [B, N, 4]), 0..1 of the unpadded image.
        tower: its last block and head are used.
        prompt: [S*S, C] that exact pooling adds to the cells before the last block.
        static: traceable. `boxes_cxcywh` must be [B, N, 4] with widths and heights up to 1.

    Returns:
        [sum N_i, D] in the order of the images, L2-normalised.

    Raises:
        ValueError: boxes for another number of images.
    """
    check_images(boxes_cxcywh, prepared.cells.shape[0])
    effect = _prompt_effect(prepared.mean, tower, prompt)
    if isinstance(boxes_cxcywh, Tensor):
        return _embed_boxes(prepared, slice(None), boxes_cxcywh, effect, tower, static=static)
    parts = [
        _embed_boxes(prepared, slice(image, image + 1), boxes.unsqueeze(0), effect[image, None], tower, static=False)
        for image, boxes in enumerate(boxes_cxcywh)
    ]
    return torch.cat(parts)


def _embed_regions(regions: Tensor, tower: ConvNeXtTower, prompt: Tensor) -> Tensor:
    """Embed regions of C3 [R, channels of C3, 2S, 2S]: unit embeddings [R, D]."""
    cells = tower.before_last_block(regions) + _prompt_map(prompt, tower)
    return tower.head(tower.last_block(cells).mean(dim=(2, 3)))


def _prompt_effect(mean: Tensor, tower: ConvNeXtTower, prompt: Tensor) -> Tensor:
    """Estimate how much the prompt changes a region's mean output, from the mean cell [B, C] of each image: [B, C]."""
    side = tower.pool_size
    cells = mean[:, :, None, None].expand(-1, -1, side, side)
    return (tower.last_block(cells + _prompt_map(prompt, tower)) - tower.last_block(cells)).mean(dim=(2, 3))


def _prompt_map(prompt: Tensor, tower: ConvNeXtTower) -> Tensor:
    """Reshape the prompt [S*S, C] to a map [1, C, S, S]."""
    return prompt.T.reshape(1, -1, tower.pool_size, tower.pool_size)


def _embed_boxes(
    prepared: StageMap, images: slice, boxes_cxcywh: Tensor, effect: Tensor, tower: ConvNeXtTower, *, static: bool
) -> Tensor:
    """Embed boxes [B, N, 4] of the chosen images, given the prompt's effect [B, C]: [B * N, D]."""
    cells, extents = prepared.cells[images], prepared.extents_hw[images]
    height, width = prepared.size_hw
    boxes = boxes_cxcywh.to(extents.dtype)
    rows, columns = roi_weights(
        boxes, extents, bins=tower.pool_size, height=height, width=width, adaptive=not static
    )  # [B, N, S, h], [B, N, S, w]
    weights = (rows.mean(2).unsqueeze(3) * columns.mean(2).unsqueeze(2)).flatten(2)  # [B, N, h*w]
    pooled = weights.to(cells.dtype) @ cells + effect.unsqueeze(1)
    return tower.head(pooled.flatten(0, 1))
