"""NanoDet-Plus-m, a small anchor-free detector of 80 COCO classes: feature pyramid, class logits and boxes.

Architecture by RangiLyu (NanoDet-Plus, Apache-2.0):

- a ShuffleNetV2 (Ma et al., 2018) with leaky ReLUs as backbone,
- a path aggregation network (PAN) of ghost blocks (Han et al., 2020), strides 8 to 64,
- for each stride a head of two depthwise layers that predicts class logits and, for each side of the box, a
  distribution over its distance from the cell (generalized focal loss, Li et al., 2020).

The published weights are loaded with batch norms folded into the convolutions, so there are none here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32, 64)
CLASSES, BINS, WIDTH = 80, 8, 96
#: Mean and scale that the weights expect, of the channels blue, green, red in 0..255.
MEAN_BGR, SCALE_BGR = (103.53, 116.28, 123.675), (0.017429, 0.017507, 0.017125)
_SLOPE = 0.1


@dataclass(frozen=True)
class DensePredictions:
    """Predictions at all M cells of the pyramid: levels from fine to coarse, cells row by row.

    `TimmTower` can run the detector on the image at half the size, too; these levels follow those of the full size.

    Attributes:
        levels: maps [B, 96, h, w] of strides 8 to 64; those of half the size have strides 32 to 128.
        class_logits: [B, M, 80].
        reach: [B, M, 4] distances in pixels from a cell's centre to the left, top, right and bottom of its box.
    """

    levels: tuple[Tensor, ...]
    class_logits: Tensor
    reach: Tensor


def _act(features: Tensor) -> Tensor:
    return F.leaky_relu(features, _SLOPE)


def _depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)


class ShuffleBlock(nn.Module):
    """ShuffleNetV2 block: half of the channels pass unchanged, the other half is convolved; with stride 2 both are."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        halves = stride == 2
        self.pass_depthwise = _depthwise(inputs, 3, 2) if halves else None
        self.pass_pointwise = nn.Conv2d(inputs, half, 1) if halves else None
        self.reduce = nn.Conv2d(inputs if halves else half, half, 1)
        self.depthwise = _depthwise(half, 3, stride)
        self.expand = nn.Conv2d(half, half, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h / stride, w / stride]."""
        if self.pass_depthwise is not None and self.pass_pointwise is not None:
            passed, branch = _act(self.pass_pointwise(self.pass_depthwise(features))), features
        else:
            passed, branch = features.chunk(2, dim=1)
        convolved = _act(self.expand(self.depthwise(_act(self.reduce(branch)))))
        # Channel shuffle: the two halves are interleaved, so that the next block mixes them.
        return torch.stack([passed, convolved], dim=2).flatten(1, 2)


class GhostBlock(nn.Module):
    """Two ghost modules and a shortcut; a ghost module computes half of its channels depthwise from the other half."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.primary1, self.cheap1 = nn.Conv2d(2 * WIDTH, half, 1), _depthwise(half, 3)
        self.primary2, self.cheap2 = nn.Conv2d(WIDTH, half, 1), _depthwise(half, 3)
        self.shortcut_depthwise = _depthwise(2 * WIDTH, 5)
        self.shortcut_pointwise = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def forward(self, resampled: Tensor, lateral: Tensor) -> Tensor:
        """Fuse two maps [B, 96, h, w], from the coarser or finer level and from the lateral one, to one."""
        features = torch.cat([resampled, lateral], dim=1)
        primary = _act(self.primary1(features))
        hidden = torch.cat([primary, _act(self.cheap1(primary))], dim=1)
        primary = self.primary2(hidden)
        ghost = torch.cat([primary, self.cheap2(primary)], dim=1)
        shortcut: Tensor = self.shortcut_pointwise(self.shortcut_depthwise(features))
        return ghost + shortcut


class Separable(nn.Module):
    """Depthwise 5 x 5, then 1 x 1, each followed by a leaky ReLU."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.depthwise, self.pointwise = _depthwise(WIDTH, 5, stride), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, 96, h, w] to [B, 96, h / stride, w / stride]."""
        return _act(self.pointwise(_act(self.depthwise(features))))


class NanoDet(nn.Module):
    """The whole network: RGB pixels in 0..255 to predictions at every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.stages = nn.ModuleList()
        inputs = 24
        for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
            blocks = [
                ShuffleBlock(inputs, outputs, 2),
                *(ShuffleBlock(outputs, outputs, 1) for _ in range(repeats - 1)),
            ]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.laterals = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in (116, 232, 464))
        self.top_down = nn.ModuleList(GhostBlock() for _ in range(2))  # stride 16, stride 8
        self.halve = nn.ModuleList(Separable(2) for _ in range(2))
        self.bottom_up = nn.ModuleList(GhostBlock() for _ in range(2))  # stride 16, stride 32
        self.extra_in, self.extra_out = Separable(2), Separable(2)
        self.head_layers = nn.ModuleList(nn.Sequential(Separable(), Separable()) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(WIDTH, CLASSES + 4 * BINS, 1) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN_BGR[::-1])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE_BGR[::-1])[:, None, None], persistent=False)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32), persistent=False)

    def forward(self, pixels: Tensor) -> DensePredictions:
        """RGB pixels [B, 3, H, W] in 0..255, H and W multiples of 8, to predictions."""
        return self.apply_heads(self.pyramid(pixels))

    def apply_heads(self, levels: Sequence[Tensor]) -> DensePredictions:
        """Predictions from all maps of `pyramid`, or from its coarsest ones."""
        logits, reaches = [], []
        heads = list(zip(self.head_layers, self.heads, STRIDES, strict=True))[-len(levels) :]
        for level, (layers, head, stride) in zip(levels, heads, strict=True):
            cells = head(layers(level)).flatten(2).transpose(1, 2)  # [B, h * w, 80 + 4 * 8]
            logits.append(cells[..., :CLASSES])
            probabilities = cells[..., CLASSES:].float().unflatten(-1, (4, BINS)).softmax(-1)
            # The expected distance in cells; bin k stands for a distance of k cells.
            reaches.append((probabilities * self.get_buffer("bins")).sum(-1) * stride)
        return DensePredictions(tuple(levels), torch.cat(logits, dim=1), torch.cat(reaches, dim=1))

    def pyramid(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """RGB pixels [B, 3, H, W] in 0..255 to maps [B, 96, h, w] of strides 8, 16, 32 and 64."""
        features = (pixels - self.get_buffer("mean")) * self.get_buffer("scale")
        features = F.max_pool2d(_act(self.stem(features.flip(1).to(self.stem.weight.dtype))), 3, 2, 1)
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            features = stage(features)
            maps.append(_act(lateral(features)))
        top = maps[2]
        inner = self.top_down[0](_upsample(top, maps[1]), maps[1])
        finest = self.top_down[1](_upsample(inner, maps[0]), maps[0])
        middle = self.bottom_up[0](self.halve[0](finest), inner)
        coarse = self.bottom_up[1](self.halve[1](middle), top)
        return finest, middle, coarse, self.extra_in(top) + self.extra_out(coarse)


def _upsample(features: Tensor, finer: Tensor) -> Tensor:
    """Double the size and crop to that of the finer map, which may be odd."""
    doubled = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[:, :, : finer.shape[-2], : finer.shape[-1]]
