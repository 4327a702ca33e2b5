"""The encoded map: what the encoder passes on to the decoder (DETR's "memory")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor


class MapLevel(NamedTuple):
    """Size of a level of the encoded map.

    Attributes:
        height: rows of the padded level.
        width: columns of the padded level.
        scale: cells of the level per cell of `Memory.size_hw`, along one side: 2 if the level is twice as fine.
    """

    height: int
    width: int
    scale: float = 1.0


@dataclass(frozen=True)
class Memory:
    """The encoded map that queries attend to.

    Attributes:
        tokens: [B, M, dim] all cells: row by row, one level after the other.
        positions: [B, M, dim] sine features of the cells.
        visible: [B, 1, 1, M] bool, False where a cell is padding; None if no cell is padding.
        size_hw: (height, width) of the padded map in cells.
        extents_hw: [B, 2] (height, width) of each image in cells, without padding.
        levels: sizes of the levels, in the order of `tokens`; a single map is one level.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor | None
    size_hw: tuple[int, int]
    extents_hw: Tensor
    levels: tuple[MapLevel, ...]

    def inside(self, level: MapLevel) -> Tensor:
        """Share of the padded level that each image covers along x and y: [B, 2], 0..1 ("valid ratio" in DETR code)."""
        size = self.extents_hw.new_tensor([level.height, level.width], dtype=torch.float32)
        return (self.extents_hw * level.scale / size).flip(-1)

    def of(self, images: Tensor) -> Self:
        """The memory of the images with these indices [n] in the batch; an index may occur several times."""
        return replace(
            self,
            tokens=self.tokens[images],
            positions=self.positions[images],
            visible=None if self.visible is None else self.visible[images],
            extents_hw=self.extents_hw[images],
        )
