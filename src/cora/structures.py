"""What flows between the parts: checked where it is made, plain tensors inside. Sizes are (height, width)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cora.draw import draw_boxes
from cora.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes, padded at the right and bottom to the largest.

    Attributes:
        pixels: [B, 3, H, W] float, normalised with CLIP's statistics, zero where padded.
        mask: [B, H, W] bool, True where padded.
        sizes: (height, width) of each image inside the batch, after resizing, without padding.
        original_sizes: (height, width) of each image before resizing.
    """

    pixels: Tensor
    mask: Tensor
    sizes: tuple[Size, ...]
    original_sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        count, height, width = self.pixels.shape[0], *self.pixels.shape[-2:]
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"pixels: expected shape [B, 3, H, W], got {list(self.pixels.shape)}")
        if self.mask.shape != (count, height, width) or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected bool of shape {[count, height, width]}, "
                f"got {self.mask.dtype} of shape {list(self.mask.shape)}"
            )
        if len(self.sizes) != count or len(self.original_sizes) != count:
            raise ValueError(
                f"sizes: expected one per image ({count}), "
                f"got {len(self.sizes)} and {len(self.original_sizes)} originals"
            )

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageBatch:
        """The same batch on another device, pixels in another floating type if given."""
        return ImageBatch(
            pixels=self.pixels.to(device=device, dtype=dtype),
            mask=self.mask.to(device),
            sizes=self.sizes,
            original_sizes=self.original_sizes,
        )

    def pin_memory(self) -> ImageBatch:
        """The same batch in page-locked memory, for faster copies to a GPU; a `DataLoader` asks for it."""
        return replace(self, pixels=self.pixels.pin_memory(), mask=self.mask.pin_memory())


@dataclass(frozen=True)
class FeatureMap:
    """Features of a padded batch.

    Attributes:
        features: [B, C, h, w].
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


@dataclass(frozen=True)
class Detections:
    """Labelled boxes of one image, best first.

    Attributes:
        boxes_xyxy_px: [K, 4] float32, corners in pixels of the original image.
        scores: [K] float32 in 0..1.
        labels: [K] int64, index into `class_names`.
        class_names: the names that were searched for.
        image_size: (height, width) of the original image.
        image: the picture itself where it was kept, for drawing.
        path: where the picture came from, if from a file.
    """

    boxes_xyxy_px: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    image_size: Size
    image: Image.Image | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        count = self.scores.shape[0]
        if self.boxes_xyxy_px.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"detections: expected boxes [{count}, 4] and labels [{count}] for {count} scores, "
                f"got {list(self.boxes_xyxy_px.shape)} and {list(self.labels.shape)}"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(
                f"detections: expected labels in 0..{len(self.class_names) - 1}, "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return self.scores.shape[0]

    def __iter__(self) -> Iterator[tuple[str, float, tuple[float, float, float, float]]]:
        """Yield (name, score, (x1, y1, x2, y2) in pixels), best first."""
        for name, score, box in zip(self.names, self.scores.tolist(), self.boxes_xyxy_px.tolist(), strict=True):
            yield name, score, (box[0], box[1], box[2], box[3])

    @property
    def names(self) -> list[str]:
        """Class name of every detection."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def draw(self, image: Image.Image | None = None, *, fill: float = 0.0) -> Image.Image:
        """A copy of the picture with boxes, names and scores.

        Args:
            image: stands in where none was kept.
            fill: opacity 0..1 of the class's colour inside the boxes.
        """
        picture = image if image is not None else self.image
        if picture is None:
            raise ValueError("draw: expected an image, got detections that kept none; pass the picture: draw(image)")
        return draw_boxes(picture, self.boxes_xyxy_px, self.names, self.scores, fill=fill)

    def to_coco(self, image_id: int, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO results: bbox (x, y, width, height) in pixels; category ids by name, else label + 1."""
        results: list[dict[str, Any]] = []
        for label, (name, score, (x1, y1, x2, y2)) in zip(self.labels.tolist(), self, strict=True):
            category = label + 1 if category_ids is None else category_ids[name]
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
        return results

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`; needs the extra `supervision`."""
        try:
            import supervision
        except ImportError as error:
            raise MissingExtraError("Detections.to_supervision", extra="supervision") from error
        import numpy as np

        return supervision.Detections(
            xyxy=self.boxes_xyxy_px.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )
