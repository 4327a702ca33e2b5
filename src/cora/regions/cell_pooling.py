"""Region embeddings of timm backbones (`TimmTower`, the image tower of `nano`); the paper has only CLIP ResNets.

1. RoIAlign pools the backbone's last map to S x S cells.
2. The region prompt is added to the cells.
3. The head follows: a convolution, its nonlinearity, the mean over the cells, the projection into the text space.
4. Two optional terms are added: a *fine head* embeds the region from a map of half the stride; a *box detector* beside
   the backbone (NanoDet, trained on 80 classes) adds the text embeddings of the classes that it found in the region.
5. The sum is normalised.

No stage runs per region, so exact and fast pooling are the same. Pooling before the last stages, as for a CLIP ResNet,
classified fewer regions correctly with these backbones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy
from cora.roi_align import check_images, roi_align
from cora.structures import FeatureMap
from cora.towers import TimmTower
from cora.towers.timm_tower import TopBoxes, box_class_scores

#: Regions of an image pooled at once; bounds the memory.
CHUNK = 128


@dataclass(frozen=True)
class CellMap:
    """The input of region pooling, computed once for a batch.

    Attributes:
        deep: [B, C, h, w] last map of the backbone, stride 32.
        extents_hw: [B, 2] (height, width) of each image in cells of `deep`, without padding.
        top_boxes: best predictions (boxes and class scores) of the box detector; None if the tower has none.
        fine: [B, C', 2 h, 2 w] map of stride 16 for the fine head; None if the tower has none.
    """

    deep: Tensor
    extents_hw: Tensor
    top_boxes: TopBoxes | None
    fine: Tensor | None = None


def cell_map(c3: FeatureMap, tower: TimmTower) -> CellMap:
    """Unpack what regions are pooled from; a `TimmTower` packs maps of several strides into one (`cora.pyramid`)."""
    with torch.no_grad():
        top_boxes = tower.top_boxes(c3)
    return CellMap(tower.deep(c3.features), c3.extents_hw, top_boxes, tower.fine_map(c3.features))


def cell_pooling(
    cells: CellMap, boxes_cxcywh: Tensor | Sequence[Tensor], *, tower: TimmTower, prompt: Tensor
) -> Tensor:
    """Embed regions: RoIAlign to S x S, prompt, head, optional terms, unit norm.

    Args:
        cells: from `cell_map`.
        boxes_cxcywh: [B, N, 4] or one [N_i, 4] per image, 0..1 of the unpadded image.
        tower: its heads embed the cells.
        prompt: [S*S, C] added to the cells of every region, row by row.

    Returns:
        [sum N_i, D] float32 in the order of the images.

    Raises:
        ValueError: boxes for another number of images.
    """
    check_images(boxes_cxcywh, cells.deep.shape[0])
    if isinstance(boxes_cxcywh, Tensor):
        return _pool(cells, boxes_cxcywh, tower, prompt).flatten(0, 1)
    # Padded to one tensor, so that all images are pooled at once.
    counts = [len(boxes) for boxes in boxes_cxcywh]
    padded = boxes_cxcywh[0].new_zeros(len(counts), max(counts), 4)
    for row, boxes in zip(padded, boxes_cxcywh, strict=True):
        row[: len(boxes)] = boxes
    embeddings = _pool(cells, padded, tower, prompt)
    return torch.cat([row[:count] for row, count in zip(embeddings, counts, strict=True)])


def _pool(cells: CellMap, boxes_cxcywh: Tensor, tower: TimmTower, prompt: Tensor) -> Tensor:
    """Embed boxes [B, N, 4], `CHUNK` per image at once: [B, N, D]."""
    side = tower.pool_size
    prompt_map = prompt.T.reshape(1, 1, -1, side, side).to(cells.deep.dtype)
    parts = []
    for chunk in boxes_cxcywh.split(CHUNK, dim=1):
        boxes = chunk.to(cells.extents_hw.dtype)
        pooled = roi_align(cells.deep, boxes, cells.extents_hw, bins=side) + prompt_map
        features = tower.head(pooled.flatten(0, 1))
        scores = None
        if cells.top_boxes is not None:
            scores = box_class_scores(cxcywh_to_xyxy(boxes), cells.top_boxes).flatten(0, 1)
        fine = None
        if cells.fine is not None and tower.fine is not None:
            fine = roi_align(cells.fine, boxes, 2 * cells.extents_hw, bins=tower.fine.bins).flatten(0, 1)
        parts.append(tower.embed(features, scores, fine).unflatten(0, boxes.shape[:2]))
    return torch.cat(parts, dim=1)
