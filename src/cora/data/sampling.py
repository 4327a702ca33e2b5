"""Sampling weights: the expected number of appearances of each image in an epoch.

`EpochLoader(weights=...)` draws an epoch of round(sum of the weights) images. So weights of 1 or more make an epoch
longer, and weights of mean 1 keep its length. Weights of several kinds may be multiplied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cora.boxes import box_area
from cora.errors import DataError


class SampledRecord(Protocol):
    """The part of an image's annotations that sampling uses, as in `cora.data.coco.CocoImage`."""

    @property
    def classes(self) -> Tensor:
        """[T] int64 class index of each box."""

    @property
    def boxes_xyxy_px(self) -> Tensor:
        """[T, 4] corners in pixels."""

    @property
    def only_pseudo(self) -> bool:
        """Whether it has boxes, and all are pseudo labels."""


def repeat_factors(records: Sequence[SampledRecord], threshold: float = 0.001) -> Tensor:
    """Repeat-factor sampling: images with rare classes appear several times (Gupta et al., LVIS, 2019, section 4).

    r(image) = max over its classes c of max(1, sqrt(threshold / f(c))), where f(c) is the share of images with class c.

    Args:
        records: images; one without boxes has the factor 1.
        threshold: classes in a larger share of the images are not repeated; 0.001 for LVIS.

    Returns:
        [n] float64, each at least 1.

    Raises:
        DataError: no images, or a threshold outside 0..1.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"repeat_factors: expected a threshold in 0..1 (0 excluded), got {threshold}")
    classes_of = _classes_of(records)
    images_with = Counter(label for labels in classes_of for label in labels)
    factors = {label: max(1.0, (threshold * len(records) / count) ** 0.5) for label, count in images_with.items()}
    return torch.tensor([max((factors[i] for i in labels), default=1.0) for labels in classes_of], dtype=torch.float64)


def equal_class_weights(records: Sequence[SampledRecord], classes: Sequence[int]) -> Tensor:
    """Weights as if a class were drawn first, all with the same chance, and then one of the images with it.

    w(image) = n / C * sum over its classes c of 1 / images(c), where images(c) is the number of images with class c,
    and C the number of `classes` that occur.

    Args:
        records: n images.
        classes: indices of the classes to balance; those in no image are left out. An image without any of them has the
            weight 0.

    Returns:
        [n] float64 of mean 1.

    Raises:
        DataError: no images, or none of the classes in any of them.
    """
    wanted = {int(c) for c in classes}
    classes_of = [labels & wanted for labels in _classes_of(records)]
    images_with = Counter(label for labels in classes_of for label in labels)
    if not images_with:
        raise DataError(f"equal_class_weights: expected images of the {len(wanted)} classes given, got none")
    share = len(records) / len(images_with)
    weights = [sum(share / images_with[label] for label in sorted(labels)) for labels in classes_of]
    return torch.tensor(weights, dtype=torch.float64)


def small_object_weights(
    records: Sequence[SampledRecord],
    area: float = 32.0**2,
    *,
    factor: float = 2.0,
    classes: Sequence[int] | None = None,
) -> Tensor:
    """`factor` for images with a small box, 1 for the others (oversampling of Kisantal et al., 2019, section 4.1).

    Args:
        records: n images.
        area: a box of a smaller area is small; in square pixels of the stored image, by default COCO's 32 x 32.
        factor: weight of an image with a small box; 1 or more.
        classes: consider only boxes of these class indices; None for all.

    Returns:
        [n] float64.

    Raises:
        DataError: no images, an area that is not positive or a factor below 1.
    """
    if area <= 0 or not factor >= 1:
        raise DataError(f"small_object_weights: expected area > 0 and factor >= 1, got {area} and {factor}")
    _check_any(records)
    wanted = None if classes is None else torch.tensor(sorted({int(c) for c in classes}), dtype=torch.int64)
    weights = torch.ones(len(records), dtype=torch.float64)
    for i, record in enumerate(records):
        boxes = record.boxes_xyxy_px
        if wanted is not None:
            boxes = boxes[torch.isin(record.classes, wanted)]
        if bool((box_area(boxes) < area).any()):
            weights[i] = factor
    return weights


def pseudo_weights(records: Sequence[SampledRecord], weight: float) -> Tensor:
    """Weights [n], float64: `weight` for images that have only pseudo labels, 1 for all others (CORA+).

    Raises:
        DataError: no images, or a weight that is not above 0.
    """
    if not 0 < weight < float("inf"):
        raise DataError(f"pseudo_weights: expected a weight above 0, got {weight}")
    _check_any(records)
    return torch.tensor([weight if record.only_pseudo else 1.0 for record in records], dtype=torch.float64)


def epoch_length(weights: Tensor) -> int:
    """Number of images in an epoch that is drawn with these weights: their rounded sum, at least 1."""
    return max(1, round(float(weights.sum())))


def draw(weights: Tensor, random: np.random.Generator) -> np.ndarray:
    """Draw the indices of one epoch, in random order, by systematic sampling.

    Images in random order are laid out as intervals, each as long as its weight, and points at equal distances with a
    random start pick from them. With w as the weight of image i, times `epoch_length` / sum of the weights, image i is
    drawn floor(w) or ceil(w) times, and w times on average. Drawing with replacement would vary much more.

    Args:
        weights: [n], checked by `check_weights`.
        random: the source of randomness.

    Returns:
        [`epoch_length`] int64.
    """
    count = epoch_length(weights)
    order = random.permutation(len(weights))
    ends = np.cumsum(weights.double().numpy()[order])
    points = (np.arange(count) + random.random()) * (ends[-1] / count)
    # Rounding may push the last point past the last end, or onto images of weight 0 behind it.
    last = int(np.flatnonzero(np.diff(ends, prepend=0.0) > 0)[-1])
    picked = np.minimum(np.searchsorted(ends, points, side="right"), last)
    return random.permutation(order[picked])


def check_weights(weights: Tensor, size: int) -> None:
    """Raise DataError unless these are weights of `size` images, finite, at least 0, and not all 0."""
    if weights.shape != (size,):
        raise DataError(f"weights: expected one for each of {size} images, got shape {list(weights.shape)}")
    bad = int((~weights.isfinite() | (weights < 0)).sum())
    if bad or not float(weights.sum()) > 0:
        raise DataError(
            f"weights: expected finite numbers of at least 0 with a positive sum, got {bad} others of {size} "
            f"and the sum {float(weights.sum()):g}"
        )


def _classes_of(records: Sequence[SampledRecord]) -> list[set[int]]:
    _check_any(records)
    return [set(record.classes.tolist()) for record in records]


def _check_any(records: Sequence[SampledRecord]) -> None:
    if not len(records):
        raise DataError("expected at least one image to give weights to, got none")
