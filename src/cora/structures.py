"""What flows between the parts: checked where it is made, plain tensors inside. Sizes are (height, width)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cora.detections import Detections
from cora.images import ImageBatch, Size

__all__ = ["DenseBoxes", "Detections", "FeatureMap", "ImageBatch", "Size", "Targets"]


@dataclass(frozen=True)
class FeatureMap:
    """Features of a padded batch.

    Attributes:
        features: [B, channels, h, w].
        mask: [B, h, w] bool, True where padded.
    """

    features: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        expected = (self.features.shape[0], *self.features.shape[-2:])
        if self.features.ndim != 4 or self.mask.shape != expected:
            raise ValueError(
                f"feature map: expected features [B, C, h, w] with mask [B, h, w], "
                f"got {list(self.features.shape)} and {list(self.mask.shape)}"
            )

    @property
    def extents_hw(self) -> Tensor:
        """[B, 2] cells (height, width) of each map that are not padding: the type of the features, at least float32."""
        inside = ~self.mask
        extents = torch.stack([inside[:, :, 0].sum(dim=1), inside[:, 0, :].sum(dim=1)], dim=-1)
        # Corners of boxes are computed from these; half precision would move them by a tenth of a cell.
        return extents.to(torch.promote_types(self.features.dtype, torch.float32))

    def pin_memory(self) -> FeatureMap:
        """The same map in page-locked memory; see `ImageBatch.pin_memory`."""
        return FeatureMap(self.features.pin_memory(), self.mask.pin_memory())


@dataclass(frozen=True)
class DenseBoxes:
    """A box at every cell of a pyramid, finest level first, cells row by row.

    Attributes:
        reach: [B, M, 4] from the centre of a cell to the left, top, right and bottom of its box, in cells of the packed
            map (32 pixels), 0 or more.
        centres: [B, M, 2] (x, y) that the reach is measured from, in the same cells.
        objectness: [B, M] logits.
    """

    reach: Tensor
    centres: Tensor
    objectness: Tensor

    def __post_init__(self) -> None:
        batch, cells = self.objectness.shape
        if self.reach.shape != (batch, cells, 4) or self.centres.shape != (batch, cells, 2):
            raise ValueError(
                f"dense boxes: expected reach [{batch}, {cells}, 4] and centres [{batch}, {cells}, 2], "
                f"got {list(self.reach.shape)} and {list(self.centres.shape)}"
            )


@dataclass(frozen=True)
class Targets:
    """What is to be found in one image.

    Attributes:
        boxes_cxcywh: [T, 4] float, 0..1 of the unpadded image.
        classes: [T] int64, index into the vocabulary.
    """

    boxes_cxcywh: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        if self.boxes_cxcywh.ndim != 2 or self.boxes_cxcywh.shape[1] != 4:
            raise ValueError(f"boxes_cxcywh: expected shape [T, 4], got {list(self.boxes_cxcywh.shape)}")
        if self.classes.shape != self.boxes_cxcywh.shape[:1] or self.classes.dtype != torch.int64:
            raise ValueError(
                f"classes: expected int64 of shape {[len(self.boxes_cxcywh)]}, "
                f"got {self.classes.dtype} of shape {list(self.classes.shape)}"
            )

    def __len__(self) -> int:
        return self.boxes_cxcywh.shape[0]

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        return Targets(boxes_cxcywh=self.boxes_cxcywh.to(device), classes=self.classes.to(device))

    def pin_memory(self) -> Targets:
        """The same targets in page-locked memory; see `ImageBatch.pin_memory`."""
        return Targets(boxes_cxcywh=self.boxes_cxcywh.pin_memory(), classes=self.classes.pin_memory())
