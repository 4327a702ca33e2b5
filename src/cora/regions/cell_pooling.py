"""Region embeddings of timm backbones (`TimmTower`, the image tower of `nano`).

RoIAlign pools the backbone's last map to S x S cells. The region prompt is added to the cells. Then follow the head's
convolution, its nonlinearity, the mean over the cells and the projection into the text space. Two optional terms are
added before the embedding is normalised: that of a fine head, pooled from a map of half the stride, and that of the
classes which a detector beside the backbone found in the region.

Pooling before the last stages, as for a CLIP ResNet, classified fewer regions correctly with these backbones. Exact and
fast pooling are therefore the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy
from cora.regions.roi_align import check_images, roi_align
from cora.structures import FeatureMap
from cora.towers import TimmTower
from cora.towers.timm_tower import Witnesses, seen_in

#: Regions of an image pooled at once; bounds the memory.
CHUNK = 128


@dataclass(frozen=True)
class CellMap:
    """The input of region pooling, computed once for a batch.

    Attributes:
        deep: [B, C, h, w] last map of the backbone.
        extents_hw: [B, 2] cells (height, width) of each map that are not padding.
        witnesses: boxes and class scores of the detector beside the backbone, if there is one.
        fine: [B, C', 2 h, 2 w] map of half the stride, if the tower has a fine head.
    """

    deep: Tensor
    extents_hw: Tensor
    witnesses: Witnesses | None
    fine: Tensor | None = None


def cell_map(c3: FeatureMap, tower: TimmTower) -> CellMap:
    """Take what regions are pooled from out of a `TimmTower`'s packed map (`cora.pyramid`)."""
    with torch.no_grad():
        witnesses = tower.witnesses(c3)
    return CellMap(tower.deep(c3.features), c3.extents_hw, witnesses, tower.fine_map(c3.features))


def cell_pooling(
    cells: CellMap, boxes_cxcywh: Tensor | Sequence[Tensor], *, tower: TimmTower, prompt: Tensor
) -> Tensor:
    """Unit embeddings of regions.

    Args:
        cells: from `cell_map`.
        boxes_cxcywh: [B, N, 4] or one [N_i, 4] for each image, 0..1 of the unpadded image.
        tower: whose head embeds the cells.
        prompt: [S*S, C] added to the cells of every region, row by row.

    Returns:
        [sum N_i, D] float32 in the order of the images.

    Raises:
        ValueError: boxes for another number of images.
    """
    check_images(boxes_cxcywh, cells.deep.shape[0])
    if isinstance(boxes_cxcywh, Tensor):
        return _pool(cells, boxes_cxcywh, tower, prompt).flatten(0, 1)
    counts = [len(boxes) for boxes in boxes_cxcywh]
    padded = boxes_cxcywh[0].new_zeros(len(counts), max(counts), 4)
    for row, boxes in zip(padded, boxes_cxcywh, strict=True):
        row[: len(boxes)] = boxes
    embeddings = _pool(cells, padded, tower, prompt)
    return torch.cat([row[:count] for row, count in zip(embeddings, counts, strict=True)])


def _pool(cells: CellMap, boxes_cxcywh: Tensor, tower: TimmTower, prompt: Tensor) -> Tensor:
    """Embed boxes [B, N, 4]: [B, N, D]."""
    side = tower.pool_size
    added = prompt.T.reshape(1, 1, -1, side, side).to(cells.deep.dtype)
    parts = []
    for boxes in boxes_cxcywh.split(CHUNK, dim=1):
        inside = boxes.to(cells.extents_hw.dtype)
        pooled = roi_align(cells.deep, inside, cells.extents_hw, bins=side) + added
        features = tower.head(pooled.flatten(0, 1))
        seen = None if cells.witnesses is None else seen_in(cxcywh_to_xyxy(inside), cells.witnesses).flatten(0, 1)
        fine = None
        if cells.fine is not None and tower.fine is not None:
            fine = roi_align(cells.fine, inside, 2 * cells.extents_hw, bins=tower.fine.bins).flatten(0, 1)
        parts.append(tower.embed(features, seen, fine).unflatten(0, boxes.shape[:2]))
    return torch.cat(parts, dim=1)
