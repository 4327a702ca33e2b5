"""Region pooling for every kind of image tower: one interface, and the choice of the implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from cora.regions.cell_pooling import CellMap, cell_map, cell_pooling
from cora.regions.pooling import ProjectedMap, exact_pooling, fast_pooling, project_map
from cora.regions.stage_pooling import StageMap, exact_stage_pooling, fast_stage_pooling, stage_map
from cora.structures import FeatureMap
from cora.towers import ConvNeXtTower, ImageTower, ResNetTower, TimmTower

#: The input of fast pooling, computed once for a batch.
Prepared = ProjectedMap | StageMap | CellMap


class RegionPooling(Protocol):
    """Exact pooling for final boxes, fast pooling for anchors.

    Boxes are [B, N, 4] or one [N_i, 4] per image, cxcywh in 0..1 of the unpadded image. Embeddings are [sum N_i, D] in
    the order of the images, unit norm. `positions` is [P, C], the output of `RegionPrompt`: the tower's positional
    table (zeros if it has none) plus the region prompt.
    """

    def exact(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        """Embed boxes for final scores."""

    def prepare(self, c4: FeatureMap) -> Prepared:
        """Compute the input of `fast`, once for all boxes of a batch."""

    def fast(self, prepared: Prepared, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        """Embed boxes from one map of the whole image; cheap enough for every anchor."""


def region_pooling(tower: ImageTower, *, static: bool = False) -> RegionPooling:
    """Choose the pooling that fits a tower.

    Args:
        tower: the image tower that computes C3 and C4.
        static: traceable: no tensor shape depends on box values. Boxes must be [B, N, 4], widths and heights up to 1.

    Raises:
        TypeError: no pooling is known for the tower.
    """
    if isinstance(tower, TimmTower):
        return _TimmPooling(tower)
    if isinstance(tower, ResNetTower):
        return _ResNetPooling(tower, static=static)
    if isinstance(tower, ConvNeXtTower):
        return _ConvNeXtPooling(tower, static=static)
    raise TypeError(f"image tower: expected a ResNetTower, a ConvNeXtTower or a TimmTower, got {type(tower).__name__}")


class _ResNetPooling:
    """CLIP ResNets: layer4 and the attention pool."""

    def __init__(self, tower: ResNetTower, *, static: bool) -> None:
        self.tower = tower
        self.static = static

    def exact(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        tower = self.tower
        return exact_pooling(
            c3,
            boxes_cxcywh,
            layer4=tower.layer4,
            attention_pool=tower.attention_pool,
            positions=positions,
            static=self.static,
        )

    def prepare(self, c4: FeatureMap) -> ProjectedMap:
        return project_map(c4, self.tower.attention_pool)

    def fast(self, prepared: Prepared, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        assert isinstance(prepared, ProjectedMap)
        pool = self.tower.attention_pool
        return fast_pooling(prepared, boxes_cxcywh, attention_pool=pool, positions=positions, static=self.static)


class _ConvNeXtPooling:
    """ConvNeXts: the last stage and the head."""

    def __init__(self, tower: ConvNeXtTower, *, static: bool) -> None:
        self.tower = tower
        self.static = static

    def exact(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        return exact_stage_pooling(c3, boxes_cxcywh, tower=self.tower, prompt=positions, static=self.static)

    def prepare(self, c4: FeatureMap) -> StageMap:
        return stage_map(c4, self.tower)

    def fast(self, prepared: Prepared, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        assert isinstance(prepared, StageMap)
        return fast_stage_pooling(prepared, boxes_cxcywh, tower=self.tower, prompt=positions, static=self.static)


class _TimmPooling:
    """timm backbones: no stage runs per box, so exact and fast pooling are the same, and always traceable."""

    def __init__(self, tower: TimmTower) -> None:
        self.tower = tower

    def exact(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        return self.fast(self.prepare(c3), boxes_cxcywh, positions)

    def prepare(self, c4: FeatureMap) -> CellMap:
        return cell_map(c4, self.tower)

    def fast(self, prepared: Prepared, boxes_cxcywh: Tensor | Sequence[Tensor], positions: Tensor) -> Tensor:
        assert isinstance(prepared, CellMap)
        return cell_pooling(prepared, boxes_cxcywh, tower=self.tower, prompt=positions)
