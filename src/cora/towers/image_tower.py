"""The interface of image towers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cora.structures import DenseBoxes, FeatureMap, ImageBatch
from cora.towers.frozen import FrozenModule


class ImageTower(FrozenModule, ABC):
    """A frozen network whose region embeddings can be compared with text embeddings.

    It returns two feature maps: C3 for the localizer and exact pooling, C4 for fast pooling. They may be the same map.
    `cora.regions.region_pooling` pools regions from them, in a different way for each kind of tower.

    Attributes:
        pool_size: S, side of the grid that a region is pooled to.
    """

    pool_size: int

    def set_pool_size(self, pool_size: int) -> None:
        """Change S, and interpolate the positional table of a tower that has one."""
        self.pool_size = pool_size

    def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """C3 and C4 of a batch, with the mask resized to each."""
        return self.maps(batch.pixels, batch.mask)

    @abstractmethod
    def maps(self, pixels: Tensor, mask: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """C3 and C4 of normalised pixels [B, 3, H, W] with mask [B, H, W], True where padded; traceable at any size."""

    @abstractmethod
    def for_inference(self, dtype: torch.dtype) -> ImageTower:
        """A copy in `dtype` that is optimised for speed and equal up to rounding; it cannot be trained or saved."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the maps."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width D of the embeddings."""

    @property
    @abstractmethod
    def c3_channels(self) -> int:
        """Channels of C3."""

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """[P, C] the positional table that the region prompt is added to; zeros for a tower without one.

        It has a row for each of the S*S cells of a pooled region and, for a CLIP ResNet, one for the mean token first.
        """

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """Shape (P, C) of a region prompt."""
        rows, channels = self.positions.shape
        return int(rows), int(channels)

    def boxes(self, c3: FeatureMap) -> DenseBoxes | None:
        """Boxes that the tower itself predicts, from which the localizer starts; None if it predicts none."""
        return None

    @property
    def box_trunk(self) -> nn.Module | None:
        """The part of the tower that serves boxes only, so that it can be trained with the localizer; None without."""
        return None

    def box_map(self, batch: ImageBatch) -> FeatureMap:
        """The channels of C3 that the localizer reads, computed with gradients for `box_trunk`.

        Raises:
            TypeError: the tower has no box trunk.
        """
        raise TypeError(f"expected a tower with a box trunk, got {type(self).__name__}")


def mask_at_cells(mask: Tensor, features: Tensor) -> Tensor:
    """Resize a mask [B, H, W] to the size of a map [B, C, h, w]: [B, h, w], as `F.interpolate(mode="nearest")`.

    It selects rows and columns by explicit indices, since the resize operators of exported runtimes round the ratio of
    the sizes in different ways.
    """
    rows, columns = (
        _nearest(cells, pixels, mask.device) for cells, pixels in zip(features.shape[-2:], mask.shape[-2:], strict=True)
    )
    return mask.index_select(1, rows).index_select(2, columns)


def _nearest(cells: int, pixels: int, device: torch.device) -> Tensor:
    """[cells] int64: index of the pixel that stands for each cell."""
    index = torch.arange(cells, device=device, dtype=torch.float32)
    # In float32, as `F.interpolate` computes the ratio.
    ratio = torch.full_like(index, pixels) / torch.full_like(index, cells)
    return (index * ratio).floor().long().clamp(max=pixels - 1)
