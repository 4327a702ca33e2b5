"""Region embeddings for towers that pool before their head's convolution (`TimmTower`).

RoIAlign pools the backbone's last map to S x S cells. The region prompt is added to the cells; then follow the head's
convolution, its nonlinearity, the mean over the cells and the projection into the text space. A tower with a fine head
adds what a finer map says of the region, pooled in the same way. With such backbones,
pooling before the last stages (as for a CLIP ResNet) classifies fewer regions correctly, so exact and fast pooling are
the same.
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

#: Regions whose cells are held at once.
CHUNK = 128


@dataclass(frozen=True)
class CellMap:
    """The input of region pooling, computed once for a batch.

    Attributes:
        deep: [B, C, h, w] last map of the backbone.
        extents_hw: [B, 2] cells of each map that are not padding.
        witnesses: output of the detector beside the backbone, if there is one.
        fine: [B, C', 2 h, 2 w] map of half the stride, where the tower reads regions from it, too.
    """

    deep: Tensor
    extents_hw: Tensor
    witnesses: Witnesses | None
    fine: Tensor | None = None


def cell_map(c3: FeatureMap, tower: TimmTower) -> CellMap:
    """The part of a packed map that regions are pooled from."""
    with torch.no_grad():
        witnesses = tower.witnesses(c3)
    return CellMap(tower.deep(c3.features), c3.extents_hw, witnesses, tower.fine_map(c3.features))


def cell_pooling(
    cells: CellMap, boxes_cxcywh: Tensor | Sequence[Tensor], *, tower: TimmTower, prompt: Tensor
) -> Tensor:
    """Unit embeddings of regions.

    Args:
        cells: of `cell_map`.
        boxes_cxcywh: [B, N, 4] or one [N_i, 4] for each image, 0..1 of the unpadded image.
        tower: whose head embeds the cells.
        prompt: [S*S, C] added to the cells of every region, row by row.

    Returns:
        [sum N_i, D] float32 in the order of the images.
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
    """[B, N, 4] to [B, N, D]."""
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
