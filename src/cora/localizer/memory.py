"""What the encoder gives the decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor


class MapLevel(NamedTuple):
    """A level of the encoded map, as it lies in the tokens.

    Attributes:
        height: rows of the padded level.
        width: columns of the padded level.
        scale: its cells along a side of one cell of `Memory.size_hw`.
    """

    height: int
    width: int
    scale: float = 1.0


@dataclass(frozen=True)
class Memory:
    """The encoded map that queries attend to.

    Attributes:
        tokens: [B, M, dim] cells row by row, one level after the other, M of all levels together.
        positions: [B, M, dim] their sine features.
        visible: [B, 1, 1, M] bool, False where a cell is padding; None if no cell is.
        size_hw: (height, width) of the padded map.
        extents_hw: [B, 2] cells (height, width) of each map that are not padding.
        levels: of the map; a single one is the map itself.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor | None
    size_hw: tuple[int, int]
    extents_hw: Tensor
    levels: tuple[MapLevel, ...]

    def inside(self, level: MapLevel) -> Tensor:
        """[B, 2] (x, y), 0..1: share of the padded level that each image covers."""
        size = self.extents_hw.new_tensor([level.height, level.width], dtype=torch.float32)
        return (self.extents_hw * level.scale / size).flip(-1)

    def of(self, images: Tensor) -> Self:
        """The memory of some images by their places in the batch; one may come several times."""
        return replace(
            self,
            tokens=self.tokens[images],
            positions=self.positions[images],
            visible=None if self.visible is None else self.visible[images],
            extents_hw=self.extents_hw[images],
        )
