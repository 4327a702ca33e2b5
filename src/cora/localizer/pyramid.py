"""Encoder and anchor proposals for a pyramid of maps of several strides; `nano` uses them, the paper does not.

As in a PAN, lateral convolutions bring all levels to the same width, and a top-down and a bottom-up pass of separable
convolutions mix neighbouring levels. Every cell proposes a box, as in `cora.localizer.proposals`. If the image tower
itself predicts boxes (`DenseBoxes`), the cells predict corrections of these.

A tower may run twice on an image, the second time at half the size; the code calls each run a *look*. The levels of
the second look follow those of the first: strides such as (8, 16, 32, 64, 32, 64, 128), fine to coarse in each look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import batched_iou, cxcywh_to_xyxy
from cora.localizer.memory import MapLevel, Memory
from cora.localizer.position import map_positions
from cora.localizer.proposals import OBJECTNESS_PRIOR, START_REACH, Proposals, boxes_between
from cora.pyramid import STRIDE, PyramidLayout
from cora.structures import DenseBoxes, FeatureMap

#: The reach that a tower predicts is corrected by a factor of up to e^±2; without such a tower, up to e^±4.
MAX_LOG_CORRECTION, MAX_LOG_REACH = 2.0, 4.0
#: Stride of the finest level that queries attend to cell by cell. Finer levels only propose boxes: attention to their
#: many cells costs much and gains little. Deformable attention samples all levels.
FINEST_MEMORY = 16
#: Convolution blocks before the heads of the proposals.
TRUNK_BLOCKS = 3


@dataclass(frozen=True)
class PyramidMemory(Memory):
    """The encoded levels that queries attend to, with the proposals of all levels.

    The tokens are levels of the first look, those of stride `FINEST_MEMORY` or more unless attention is deformable.
    `size_hw` and `extents_hw` are in cells of the packed map, stride 32.

    Attributes:
        proposals: proposals of all cells of all levels, also of levels that are not among the tokens.
    """

    proposals: Proposals

    def of(self, images: Tensor) -> Self:
        """As `Memory.of`, with the proposals."""
        return replace(super().of(images), proposals=self.proposals.of(images))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell; unlike batch or group norm, padded cells do not influence others."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise [B, C, h, w] over C."""
        cells: Tensor = super().forward(features.permute(0, 2, 3, 1))
        return cells.permute(0, 3, 1, 2)


#: For each level a float mask [B, 1, h, w], 1 inside the image and 0 on padding; None on a CPU without padding.
ValidMasks = tuple[Tensor, ...] | None


class SeparableBlock(nn.Module):
    """Depthwise 3 x 3 convolution, 1 x 1 convolution, channel norm, SiLU.

    Args:
        dim: output channels.
        inputs: input channels; 0 stands for `dim`.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, dim: int, *, inputs: int = 0, stride: int = 1) -> None:
        super().__init__()
        inputs = inputs or dim
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, dim, 1, bias=False)
        self.norm = ChannelNorm(dim)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map [B, inputs, h, w] to [B, dim, h / stride, w / stride]; `valid` [B, 1, h, w] is 0 on padding, else 1."""
        if valid is not None:
            features = features * valid  # zero, like the convolution's own padding at the border of the map
        return F.silu(self.norm(self.pointwise(self.depthwise(features))))


class PyramidEncoder(nn.Module):
    """Encodes maps of several strides into maps with the same number of channels.

    Args:
        layout: strides and channels of the maps.
        dim: channels of the encoded maps, a multiple of 8.
        passes: whether the top-down and bottom-up passes mix neighbouring levels; not needed if the tower has mixed
            them already.

    Raises:
        ValueError: unsupported strides, or `passes` with levels of two looks.
    """

    def __init__(self, *, layout: PyramidLayout, dim: int, passes: bool = True) -> None:
        super().__init__()
        self.layout = layout
        self.strides = tuple(stride for stride, _ in layout.levels)
        first = first_look(self.strides)
        if first not in ((8, 16, 32), (8, 16, 32, 64), (16, 32), (16, 32, 64)):
            raise ValueError(f"pyramid levels: expected strides 8 or 16 to 32 or 64, got {self.strides}")
        if len(first) < len(self.strides) and passes:
            raise ValueError(f"pyramid levels: levels of two looks cannot be mixed, got strides {self.strides}")
        self.encoded_strides = encoded_strides(self.strides)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), ChannelNorm(dim)) for _, channels in layout.levels
        )
        self.coarser = None if 64 in self.strides else SeparableBlock(dim, stride=2)
        steps = len(self.encoded_strides) - 1 if passes else 0
        self.top_down = nn.ModuleList(SeparableBlock(dim, inputs=2 * dim) for _ in range(steps))
        self.halve = nn.ModuleList(SeparableBlock(dim, stride=2) for _ in range(steps))
        self.bottom_up = nn.ModuleList(SeparableBlock(dim, inputs=2 * dim) for _ in range(steps))

    def forward(self, features: Tensor, valid_masks: ValidMasks = None) -> tuple[Tensor, ...]:
        """Encode a packed map [B, C, h, w] to a map [B, dim, h_i, w_i] for each stride of `encoded_strides`."""
        maps = [lateral(level) for lateral, level in zip(self.laterals, self.layout.unpack(features), strict=True)]
        valid = valid_masks or (None,) * len(self.encoded_strides)
        if self.coarser is not None:
            maps.append(self.coarser(maps[-1], valid[-2]))
        if not len(self.top_down):
            return tuple(maps)
        for level in reversed(range(len(maps) - 1)):
            coarser = F.interpolate(maps[level + 1], size=maps[level].shape[-2:], mode="nearest")
            both = torch.cat([maps[level], coarser], dim=1)
            maps[level] = maps[level] + self.top_down[level](both, valid[level])
        for level in range(1, len(maps)):
            finer = self.halve[level - 1](maps[level - 1], valid[level - 1])
            both = torch.cat([maps[level], finer], dim=1)
            maps[level] = maps[level] + self.bottom_up[level - 1](both, valid[level])
        return tuple(maps)


class Trunk(nn.Sequential):
    """A sequence of `SeparableBlock`s, all with the same mask."""

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map [B, dim, h, w] to [B, dim, h, w]; `valid` as in `SeparableBlock`."""
        for block in self:
            features = block(features, valid)
        return features


class PyramidProposals(nn.Module):
    """Proposes anchors from the cells of all levels. The levels share the trunk; each has its own heads.

    Args:
        dim: channels of the encoded maps.
        count: number of boxes per image that become anchors.
        strides: strides of the encoded maps, in pixels.
    """

    def __init__(self, *, dim: int, count: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.count, self.strides = count, strides
        self.trunk = Trunk(*(SeparableBlock(dim) for _ in range(TRUNK_BLOCKS)))
        self.objectness_heads = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in strides)
        self.reach_heads = nn.ModuleList(nn.Conv2d(dim, 4, 1) for _ in strides)

    def reset_parameters(self) -> None:
        """Zero the heads: proposals start as the tower's boxes; without such, as squares with `OBJECTNESS_PRIOR`."""
        for objectness, reach in zip(self.objectness_heads, self.reach_heads, strict=True):
            for head in (objectness, reach):
                nn.init.zeros_(head.weight)  # type: ignore[arg-type]
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(
        self,
        maps: tuple[Tensor, ...],
        masks: tuple[Tensor, ...],
        extents_hw: Tensor,
        start: DenseBoxes | None,
        valid_masks: ValidMasks = None,
    ) -> Proposals:
        """Propose a box at every cell.

        Args:
            maps: from `PyramidEncoder`.
            masks: [B, h, w] bool of each map, True where padded.
            extents_hw: [B, 2] (height, width) of each image in cells of 32 pixels, without padding.
            start: boxes that the tower predicts at the same cells; None if it predicts none.
            valid_masks: the padding once more, as float masks for the convolutions.
        """
        valid = valid_masks or (None,) * len(maps)
        hidden = [self.trunk(level, mask) for level, mask in zip(maps, valid, strict=True)]
        objectness, correction = (
            torch.cat(
                [head(level).flatten(2).transpose(1, 2) for head, level in zip(heads, hidden, strict=True)], 1
            ).float()
            for heads in (self.objectness_heads, self.reach_heads)
        )
        objectness = objectness.squeeze(-1)
        if start is None:
            centres, sides = _cells(maps, self.strides)
            prior = math.log(OBJECTNESS_PRIOR / (1 - OBJECTNESS_PRIOR))
            reach = START_REACH * sides * correction.clamp(-MAX_LOG_REACH, MAX_LOG_REACH).exp()
            objectness = objectness + prior
        else:
            centres = start.centres
            reach = start.reach * correction.clamp(-MAX_LOG_CORRECTION, MAX_LOG_CORRECTION).exp()
            objectness = objectness + start.objectness
        extents = extents_hw.float().flip(-1).unsqueeze(1)
        inside = ~torch.cat([mask.flatten(1) for mask in masks], dim=1)
        boxes = boxes_between((centres - reach[..., :2]) / extents, (centres + reach[..., 2:]) / extents)
        return Proposals(boxes, objectness, (centres / extents).expand(objectness.shape[0], -1, -1), inside)


def encode_pyramid(
    c3: FeatureMap,
    encoder: PyramidEncoder,
    proposals: PyramidProposals,
    start: DenseBoxes | None,
    *,
    finest: int = FINEST_MEMORY,
) -> PyramidMemory:
    """Encode a packed map and propose a box at every cell.

    Args:
        c3: packed pyramid of B images (`cora.pyramid`), stride 32.
        encoder: encodes the levels.
        proposals: proposes the boxes.
        start: boxes that the tower predicts at the same cells; None if it predicts none.
        finest: stride of the finest level whose cells become tokens of the memory.
    """
    masks = PyramidLayout(tuple((stride, 1) for stride in encoder.encoded_strides)).unpack_mask(c3.mask)
    padded = visible_cells(c3.mask.flatten(1)) is not None
    valid_masks = tuple((~mask).to(c3.features.dtype).unsqueeze(1) for mask in masks) if padded else None
    maps = encoder(c3.features, valid_masks)
    proposed = proposals(maps, masks, c3.extents_hw, start, valid_masks)
    kept = [(level, mask, stride) for level, mask, stride in zip(maps, masks, encoder.encoded_strides, strict=True)]
    kept = [entry for entry in kept[: len(first_look(encoder.encoded_strides))] if entry[2] >= finest]
    positions = [
        map_positions(
            (c3.extents_hw * (STRIDE / stride)).to(level.dtype),
            height=level.shape[-2],
            width=level.shape[-1],
            dim=level.shape[1],
        )
        for level, _, stride in kept
    ]
    hidden = torch.cat([mask.flatten(1) for _, mask, _ in kept], dim=1)
    return PyramidMemory(
        tokens=torch.cat([level.flatten(2).transpose(1, 2) for level, _, _ in kept], dim=1),
        positions=torch.cat(positions, dim=1),
        visible=visible_cells(hidden),
        size_hw=(c3.features.shape[-2], c3.features.shape[-1]),
        extents_hw=c3.extents_hw,
        levels=tuple(MapLevel(level.shape[-2], level.shape[-1], STRIDE / stride) for level, _, stride in kept),
        proposals=proposed,
    )


def encoded_strides(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of the encoded maps: those of the tower, then 64 if the tower has no map of that stride."""
    return strides if 64 in strides else (*strides, 64)


def first_look(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tower's first look at an image: those before the strides become finer again (see the module)."""
    ends = [index for index in range(1, len(strides)) if strides[index] <= strides[index - 1]]
    return strides[: ends[0]] if ends else strides


def objectness_at(anchors_cxcywh: Tensor, proposals: Proposals) -> Tensor:
    """Objectness logits [B, N] for boxes [B, N, 4]: those of the proposals that overlap them most.

    A proposed anchor gets its own objectness. Other boxes, such as those of denoising training, get their neighbour's.
    """
    overlap = batched_iou(cxcywh_to_xyxy(anchors_cxcywh), cxcywh_to_xyxy(proposals.boxes_cxcywh))
    return proposals.objectness.gather(1, overlap.argmax(dim=-1))


def visible_cells(hidden: Tensor) -> Tensor | None:
    """Attention mask [B, 1, 1, M], True where cells may be attended to, from padding [B, M], True where padded.

    None on a CPU without padding, where attention without a mask is a quarter faster. On a GPU the check would force a
    synchronisation, and a traced graph must not depend on it.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    traced = torch.compiler.is_compiling() or tracing
    if hidden.device.type == "cpu" and not traced and not bool(hidden.any()):
        return None
    return ~hidden[:, None, None]


def _cells(maps: tuple[Tensor, ...], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centres [1, M, 2] (x, y) and sides [1, M, 1] of the cells of all levels, in units of 32 pixels."""
    centres, sides = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[-2:]
        y = (torch.arange(height, dtype=torch.float32, device=level.device) + 0.5)[:, None].expand(height, width)
        x = (torch.arange(width, dtype=torch.float32, device=level.device) + 0.5)[None].expand(height, width)
        grid = torch.stack([x, y], dim=-1).flatten(0, 1) * (stride / STRIDE)
        centres.append(grid)
        sides.append(torch.full_like(grid[:, :1], stride / STRIDE))
    return torch.cat(centres)[None], torch.cat(sides)[None]
