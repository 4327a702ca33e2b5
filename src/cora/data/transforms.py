"""Augmentation of images and their boxes; randomness comes from the global generator of torch."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from cora.boxes import box_area, clip_to_image, overlap_area, scale_to_pixels, xyxy_to_cxcywh
from cora.errors import DataError
from cora.images import Preprocessor
from cora.structures import Targets

#: Least side of a resized image: very thin images are widened to it, since a tower halves its input five times.
MIN_SIDE_PX = 32


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Settings of `TrainTransform`, with sizes in pixels; the defaults are those of DETR and the published training.

    Attributes:
        short_sides: lengths of the short side after the final resize, one of which is drawn.
        long_side: upper bound of the long side.
        flip: probability of a horizontal flip.
        crop: probability of a crop before the final resize.
        crop_short_sides: lengths of the short side before a crop, one of which is drawn.
        crop_sides: least and greatest side of the crop.
        min_box_side: boxes with a smaller side after all steps are removed.
        min_visible: boxes with a smaller share of their area inside the crop are removed; 0 keeps all, as the published
            training does.
    """

    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    long_side: int = 1333
    flip: float = 0.5
    crop: float = 0.5
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)
    min_box_side: float = 1.0
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        for name in ("short_sides", "crop_short_sides", "crop_sides"):
            if any(type(side) is not int or side < 1 for side in getattr(self, name)):
                raise DataError(f"{name}: expected whole numbers of 1 or more, got {getattr(self, name)}")
        if len(self.crop_sides) != 2:
            raise DataError(f"crop_sides: expected two sides, the least and the greatest, got {self.crop_sides}")
        if not self.short_sides or min(self.short_sides) < 1 or max(self.short_sides) > self.long_side:
            raise DataError(f"short_sides must lie in 1..long_side={self.long_side}, got {self.short_sides}")
        for name in ("flip", "crop", "min_visible"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise DataError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.crop > 0 and not (self.crop_short_sides and 1 <= self.crop_sides[0] <= self.crop_sides[1]):
            raise DataError(
                f"cropping needs short sides and 1 <= least <= greatest side, got {self.crop_short_sides}, "
                f"{self.crop_sides}"
            )


class TrainTransform:
    """Flips, crops and resizes an image and its boxes at random.

    Args:
        config: probabilities and sizes.
    """

    def __init__(self, *, config: AugmentConfig) -> None:
        self.config = config
        self.flip = v2.RandomHorizontalFlip(config.flip)

    def __repr__(self) -> str:
        return f"TrainTransform({self.config})"

    def __call__(self, image: Image.Image, targets: Targets) -> tuple[Image.Image, Targets]:
        """The transformed image and its targets, by the random state of torch."""
        config = self.config
        boxes, classes = _boxes_of(image, targets), targets.classes
        image, boxes = self.flip(image, boxes)
        if float(torch.rand(())) < config.crop:
            image, boxes = _resize(image, boxes, short_side=_choice(config.crop_short_sides), long_side=None)
            image, boxes, visible = _random_crop(
                image, boxes, least=config.crop_sides[0], greatest=config.crop_sides[1]
            )
            keep = visible >= config.min_visible
            boxes, classes = tv_tensors.wrap(boxes[keep], like=boxes), classes[keep]
        image, boxes = _resize(image, boxes, short_side=_choice(config.short_sides), long_side=config.long_side)
        return image, _targets_of(image, boxes, classes, min_side=config.min_box_side)


class ResizeTransform:
    """Resize an image as the detector does at test time; no randomness.

    Args:
        preprocessor: of the detector, which owns the sizes.
    """

    def __init__(self, *, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor

    def __repr__(self) -> str:
        # Feature caches store this text, so that a change of it would invalidate those of earlier runs.
        config = self.preprocessor.config
        return f"ResizeTransform(short_side={config.short_side}, long_side={config.long_side})"

    def __call__(self, image: Image.Image, targets: Targets) -> tuple[Image.Image, Targets]:
        """The resized image and its targets."""
        image = self.preprocessor.resize(image)
        return image, _targets_of(image, _boxes_of(image, targets), targets.classes, min_side=0.0)


def _choice(sides: tuple[int, ...]) -> int:
    return sides[int(torch.randint(len(sides), ()))]


def _boxes_of(image: Image.Image, targets: Targets) -> tv_tensors.BoundingBoxes:
    xyxy = scale_to_pixels(targets.boxes_cxcywh, (image.height, image.width))
    return tv_tensors.BoundingBoxes(
        xyxy, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(image.height, image.width)
    )


def _targets_of(image: Image.Image, boxes: Tensor, classes: Tensor, *, min_side: float) -> Targets:
    """Targets of boxes in pixels, clipped to the image; boxes with too small a side, or an empty one, are removed."""
    inside = clip_to_image(boxes.as_subclass(Tensor), (image.height, image.width))
    sides = inside[:, 2:] - inside[:, :2]
    keep = (sides >= min_side).all(dim=1) & (sides > 0).all(dim=1)
    size = inside.new_tensor([image.width, image.height] * 2)
    return Targets(boxes_cxcywh=xyxy_to_cxcywh(inside[keep]) / size, classes=classes[keep])


def _resize(
    image: Image.Image, boxes: tv_tensors.BoundingBoxes, *, short_side: int, long_side: int | None
) -> tuple[Image.Image, tv_tensors.BoundingBoxes]:
    scale = short_side / min(image.width, image.height)
    if long_side is not None:
        scale = min(scale, long_side / max(image.width, image.height))
    least = min(MIN_SIDE_PX, short_side)
    size = [max(least, round(image.height * scale)), max(least, round(image.width * scale))]
    return tv.resize(image, size, antialias=True), tv.resize(boxes, size)


def _random_crop(
    image: Image.Image, boxes: tv_tensors.BoundingBoxes, *, least: int, greatest: int
) -> tuple[Image.Image, tv_tensors.BoundingBoxes, Tensor]:
    """A crop of random size and position, its boxes, and the share of each box's area inside it: [T] in 0..1."""
    width, height = (
        int(torch.randint(min(least, side), min(greatest, side) + 1, ())) for side in (image.width, image.height)
    )
    left = int(torch.randint(image.width - width + 1, ()))
    top = int(torch.randint(image.height - height + 1, ()))
    plain = boxes.as_subclass(Tensor)
    window = plain.new_tensor([left, top, left + width, top + height])
    visible = overlap_area(plain, window) / box_area(plain).clamp(min=1e-9)
    cropped = tv.crop(boxes, top, left, height, width)
    return tv.crop(image, top, left, height, width), cropped, visible
