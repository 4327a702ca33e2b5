"""The trainable part of the study: an image encoder, and a head that predicts a box in every cell for each class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cora.study.cam import FrozenMaps, upsample

#: Channels per group of a GroupNorm.
_GROUP = 8
#: Dilations of the head's convolutions, since objects are larger than a cell.
_DILATIONS = (1, 2, 4)
#: Largest factor between a distance from a cell to a side of its box and that of the prior box, up or down.
_REACH = 30.0


class ImageEncoder(nn.Module):
    """RGB to features at the resolution of the maps, which is finer than that of the frozen patches.

    Args:
        channels: of the features.
        resolution_hw: (height, width) of the features.
    """

    def __init__(self, *, channels: int = 128, resolution_hw: tuple[int, int]) -> None:
        super().__init__()
        self.resolution_hw = resolution_hw
        self.stages = nn.Sequential(
            _stage(3, 32, kernel=4, stride=4),
            _stage(32, 64, kernel=3, stride=1),
            _stage(64, channels, kernel=3, stride=2),
            _stage(channels, channels, kernel=3, stride=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to [B, channels, h, w]."""
        features: Tensor = self.stages(pixels)
        return features if features.shape[-2:] == self.resolution_hw else upsample(features, self.resolution_hw)


class DetectionHead(nn.Module):
    """[image features, map of a class, patch features] to a box in every cell, for every class.

    A box reaches from its cell's centre to four sides, at distances relative to a prior box: at the start all boxes
    are of the prior's size. Image and patch features are the same for all classes and computed once.

    Args:
        image_channels: of the image encoder.
        feature_width: channels of the patch features.
        hidden: channels inside.
        prior_wh: width and height of the prior box, 0..1 of the image.
    """

    def __init__(
        self,
        *,
        image_channels: int = 128,
        feature_width: int,
        hidden: int = 64,
        prior_wh: tuple[float, float] = (0.3, 0.3),
    ) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(feature_width)
        self.patch_projection = nn.Linear(feature_width, hidden)
        self.image_projection = nn.Conv2d(image_channels, hidden, 1)
        self.cam_projection = nn.Conv2d(1, hidden, 3, padding=1, bias=False)
        self.start = nn.Sequential(nn.GroupNorm(hidden // _GROUP, hidden), nn.ReLU())
        self.blocks = nn.Sequential(*(_stage(hidden, hidden, kernel=3, stride=1, dilation=d) for d in _DILATIONS))
        self.sides = nn.Conv2d(hidden, 4, 1)
        # Nearly the prior at the start, but not zero: then no earlier layer would get a gradient.
        nn.init.normal_(self.sides.weight, std=0.01)
        nn.init.constant_(self.sides.bias, 0.0)  # type: ignore[arg-type]  # there is one
        self.register_buffer("prior_wh", torch.tensor(prior_wh))
        self.prior_wh: Tensor

    def forward(self, image_features: Tensor, cams: Tensor, features: Tensor) -> Tensor:
        """Boxes of every class.

        Args:
            image_features: [B, image_channels, H, W].
            cams: [B, C, H, W] in 0..1.
            features: [B, feature_width, h, w] of the patches.

        Returns:
            [B, C, H, W, 4] cxcywh, 0..1 of the image, not clipped to it.
        """
        count, classes = cams.shape[:2]
        rows = torch.arange(count, device=cams.device).repeat_interleave(classes)
        boxes: Tensor = self.selected(image_features, cams.flatten(0, 1), features, rows).unflatten(0, (count, classes))
        return boxes

    def selected(self, image_features: Tensor, cams: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Boxes [P, H, W, 4] of P maps [P, H, W], map i being of image `rows[i]`."""
        patches = self.patch_projection(self.patch_norm(features.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        size_hw = (cams.shape[-2], cams.shape[-1])
        shared = self.image_projection(image_features) + upsample(patches, size_hw)
        hidden = self.blocks(self.start(shared[rows] + self.cam_projection(cams[:, None])))
        return self.boxes(self.sides(hidden).permute(0, 2, 3, 1))

    def boxes(self, logits: Tensor) -> Tensor:
        """Distances to left, top, right and bottom [..., H, W, 4], as logs relative to the prior, to cxcywh."""
        limit = math.log(_REACH)
        # Bounded smoothly, since a clamp has no gradient beyond its bounds.
        distances = (limit * (logits / limit).tanh()).exp() * self.prior_wh.repeat(2) / 2
        low, high = distances.split(2, dim=-1)
        centres = cell_centres(logits.shape[-3], logits.shape[-2]).to(logits)
        return torch.cat([centres + (high - low) / 2, low + high], dim=-1)

    def prior_boxes(self, size_hw: tuple[int, int]) -> Tensor:
        """[H, W, 4] cxcywh: what the untrained head predicts, boxes of one size."""
        return self.boxes(self.prior_wh.new_zeros(*size_hw, 4))


class StudyModel(nn.Module):
    """Pixels and frozen maps to boxes; nothing frozen is inside.

    Args:
        image_encoder: RGB to features.
        head: features and maps to boxes.
    """

    def __init__(self, *, image_encoder: ImageEncoder, head: DetectionHead) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.head = head

    @property
    def cam_resolution(self) -> tuple[int, int]:
        """(H, W) of the boxes."""
        return self.image_encoder.resolution_hw

    def forward(self, pixels: Tensor, maps: FrozenMaps) -> Tensor:
        """Boxes [B, C, H, W, 4] cxcywh of every class."""
        cams = upsample(maps.cams, self.cam_resolution)
        boxes: Tensor = self.head(self.image_encoder(pixels), cams, maps.features)
        return boxes

    def of_classes(self, pixels: Tensor, maps: FrozenMaps, rows: Tensor, classes: Tensor) -> Tensor:
        """Boxes [P, H, W, 4] of class `classes[i]` in image `rows[i]`, the others left out: [P] int64 each."""
        cams = upsample(maps.cams[rows, classes][:, None], self.cam_resolution)[:, 0]
        return self.head.selected(self.image_encoder(pixels), cams, maps.features, rows)


def cell_centres(height: int, width: int) -> Tensor:
    """[H, W, 2] x and y of the centres of cells, 0..1."""
    y, x = (torch.arange(count) + 0.5 for count in (height, width))
    return torch.stack(torch.broadcast_tensors(x / width, (y / height)[:, None]), dim=-1)


def _stage(inside: int, outside: int, *, kernel: int, stride: int, dilation: int = 1) -> nn.Sequential:
    padding = 0 if kernel == stride else dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(outside // _GROUP, outside),
        nn.ReLU(),
    )
