"""What CORA needs of an image tower: the protocol that its kinds follow."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cora.structures import DenseBoxes, FeatureMap, ImageBatch
from cora.towers.frozen import FrozenModule


class ImageTower(FrozenModule, ABC):
    """A frozen network whose regions can be compared with texts.

    Two maps leave it: C3 is what the localizer and exact pooling read, C4 what fast pooling reads; a tower may give the
    same map for both. How a region is pooled from them is the affair of `cora.regions`, one way for each kind.

    Attributes:
        pool_size: S, side of the grid that a region is pooled to.
    """

    pool_size: int

    def set_pool_size(self, pool_size: int) -> None:
        """Change S; positions of cells, where a tower has them, are interpolated."""
        self.pool_size = pool_size

    def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """C3 and C4 of a batch, with the mask resized to each."""
        return self.maps(batch.pixels, batch.mask)

    @abstractmethod
    def maps(self, pixels: Tensor, mask: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """C3 and C4 of normalised pixels [B, 3, H, W] and their padding [B, H, W]; traceable, with any sizes."""

    @abstractmethod
    def for_inference(self, dtype: torch.dtype) -> ImageTower:
        """A copy that runs fastest: the same function up to rounding, in `dtype`, not to be trained or saved."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the maps."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width D of the common space."""

    @property
    @abstractmethod
    def c3_channels(self) -> int:
        """Channels of C3."""

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """[P, C] what the region prompt is added to: a value for every cell of a pooled region."""

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """Shape (P, C) of a region prompt."""
        rows, channels = self.positions.shape
        return int(rows), int(channels)

    def boxes(self, c3: FeatureMap) -> DenseBoxes | None:
        """Boxes that the tower itself sees in its map, as a start for the localizer's; None if it knows none."""
        return None

    @property
    def box_trunk(self) -> nn.Module | None:
        """The network beside the tower whose maps the localizer reads and that may learn new objects; None for none."""
        return None

    def box_map(self, batch: ImageBatch) -> FeatureMap:
        """What the localizer reads of C3, by `box_trunk` alone; its gradients reach the trunk.

        Raises:
            TypeError: the tower has no such trunk.
        """
        raise TypeError(f"expected a tower with a box trunk, got {type(self).__name__}")


def mask_at_cells(mask: Tensor, features: Tensor) -> Tensor:
    """Mask [B, H, W] at the cells of a map [B, C, h, w], [B, h, w]: `interpolate(mode="nearest")` by places.

    Places stay the same in every runtime; their own operators round ratios of sizes in different ways.
    """
    rows, columns = (
        _nearest(cells, pixels, mask.device) for cells, pixels in zip(features.shape[-2:], mask.shape[-2:], strict=True)
    )
    return mask.index_select(1, rows).index_select(2, columns)


def _nearest(cells: int, pixels: int, device: torch.device) -> Tensor:
    """[cells] int64: the pixel nearest to each cell."""
    place = torch.arange(cells, device=device, dtype=torch.float32)
    # The ratio in float32, as the operator computes it.
    ratio = torch.full_like(place, pixels) / torch.full_like(place, cells)
    return (place * ratio).floor().long().clamp(max=pixels - 1)
