"""Maps of several strides in one: a pyramid travels, pads and is cached like any feature map.

The packed map has cells of 32 pixels. A cell holds its finer cells side by side as channels (space to depth); a cell of
64 or 128 pixels is held by each of its cells of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: Pixels a cell of the packed map.
STRIDE = 32
STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class PyramidLayout:
    """What lies in a packed map.

    Attributes:
        levels: (stride, channels) of each level in the order of the packed channels; strides are 8 to 128.
    """

    levels: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple((int(stride), int(channels)) for stride, channels in self.levels))
        for stride, channels in self.levels:
            if stride not in STRIDES or channels < 1:
                raise ValueError(f"levels: expected strides of {STRIDES} and channels above 0, got {self.levels}")

    @property
    def packed_channels(self) -> int:
        """Channels of the packed map."""
        return sum(_width(stride, channels) for stride, channels in self.levels)

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, h_i, w_i] in the order of the levels to [B, packed_channels, h, w]."""
        size = next(
            (one.shape[-2] * stride // STRIDE, one.shape[-1] * stride // STRIDE)
            for one, (stride, _) in zip(maps, self.levels, strict=True)
            if stride <= STRIDE
        )
        return torch.cat([_pack(one, stride, size) for one, (stride, _) in zip(maps, self.levels, strict=True)], dim=1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The levels of [B, at least packed_channels, h, w]; channels behind them are left alone."""
        parts = packed[:, : self.packed_channels].split([_width(*level) for level in self.levels], dim=1)
        return tuple(_unpack(part, stride) for part, (stride, _) in zip(parts, self.levels, strict=True))

    def unpack_mask(self, mask: Tensor) -> tuple[Tensor, ...]:
        """Padding of every level from that of the packed map, [B, h, w] bool."""
        return tuple(
            mask[:, :: stride // STRIDE, :: stride // STRIDE]
            if stride > STRIDE
            else mask.repeat_interleave(STRIDE // stride, dim=1).repeat_interleave(STRIDE // stride, dim=2)
            for stride, _ in self.levels
        )


def _width(stride: int, channels: int) -> int:
    return channels * (STRIDE // stride) ** 2 if stride <= STRIDE else channels


def _pack(level: Tensor, stride: int, size_hw: tuple[int, int]) -> Tensor:
    if stride <= STRIDE:
        return F.pixel_unshuffle(level, STRIDE // stride)
    # Rows and columns by their numbers. To repeat all and cut would be the same, but whether anything is cut depends on
    # the size, and a traced program with open sizes would only take those that answer as the traced one did.
    rows, columns = (torch.arange(side, device=level.device) // (stride // STRIDE) for side in size_hw)
    return level.index_select(2, rows).index_select(3, columns)


def _unpack(part: Tensor, stride: int) -> Tensor:
    if stride <= STRIDE:
        return F.pixel_shuffle(part, STRIDE // stride)
    return part[:, :, :: stride // STRIDE, :: stride // STRIDE]
