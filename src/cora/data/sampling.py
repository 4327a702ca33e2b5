"""How often an image appears in an epoch: one weight an image, the number of times it is expected.

`EpochLoader(weights=...)` draws an epoch of round(sum of the weights) images, so that weights of 1 or more make
an epoch longer and weights of mean 1 keep its length. Weights of several kinds may be multiplied.
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
    """What sampling reads of an image; `cora.data.coco.CocoImage` has it."""

    @property
    def classes(self) -> Tensor:
        """[T] int64 class of each box."""

    @property
    def boxes_xyxy_px(self) -> Tensor:
        """[T, 4] corners in pixels."""


def repeat_factors(records: Sequence[SampledRecord], threshold: float = 0.001) -> Tensor:
    """Repeat-factor sampling: images of rare classes several times an epoch (Gupta et al., LVIS, 2019, section 4).

    r(image) = max over its classes c of max(1, sqrt(threshold / f(c))), f(c) the share of images that hold c.

    Args:
        records: images; one without boxes has the factor 1.
        threshold: t; classes in a larger share of the images are not repeated. 0.001 for LVIS.

    Returns:
        [n] float64, each at least 1.

    Raises:
        DataError: no images, or a threshold that is no share.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"repeat_factors: expected a threshold in 0..1 (0 excluded), got {threshold}")
    held = _classes_held(records)
    photos = Counter(c for one in held for c in one)
    factor_of = {c: max(1.0, (threshold * len(held) / count) ** 0.5) for c, count in photos.items()}
    return torch.tensor([max((factor_of[c] for c in one), default=1.0) for one in held], dtype=torch.float64)


def equal_class_weights(records: Sequence[SampledRecord], classes: Sequence[int]) -> Tensor:
    """Weights as if a class were drawn first, each with the same chance, and then one of the images that hold it.

    w(image) = n / C * sum over its classes c of 1 / images(c), C the number of `classes` that any image holds.

    Args:
        records: n images.
        classes: indices of the classes that are to be seen equally; those in no image are left out. Images
            without any of them have the weight 0.

    Returns:
        [n] float64 of mean 1.

    Raises:
        DataError: no images, or none of the classes in any of them.
    """
    wanted = {int(c) for c in classes}
    held = [one & wanted for one in _classes_held(records)]
    photos = Counter(c for one in held for c in one)
    if not photos:
        raise DataError(f"equal_class_weights: expected images of the {len(wanted)} classes given, got none")
    each = len(held) / len(photos)
    return torch.tensor([sum(each / photos[c] for c in sorted(one)) for one in held], dtype=torch.float64)


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
        area: boxes of less than so many square pixels of the stored image are small; COCO's 32 x 32.
        factor: how often images with a small box are seen; 1 or more.
        classes: look at boxes of these class indices only; None for all.

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


def epoch_length(weights: Tensor) -> int:
    """Images of an epoch that is drawn with these weights: their sum, rounded, at least 1."""
    return max(1, round(float(weights.sum())))


def draw(weights: Tensor, random: np.random.Generator) -> np.ndarray:
    """Indices of one epoch in random order, each as often as its weight says.

    Systematic sampling: images in random order take intervals as long as their weights, and a comb of unit
    distance with a random start picks from them. So image i is drawn floor(w) or ceil(w) times, w on average,
    where w is its weight times `epoch_length` / sum of the weights: repeat factors are rounded at random, and
    no image is left to luck as when drawing with replacement.

    Args:
        weights: [n], checked by `check_weights`.
        random: the only source of randomness.

    Returns:
        [`epoch_length`] int64.
    """
    count = epoch_length(weights)
    order = random.permutation(len(weights))
    ends = np.cumsum(weights.double().numpy()[order])
    comb = (np.arange(count) + random.random()) * (ends[-1] / count)
    # Rounding may push the last tooth past the last end, or onto images of weight 0 behind it.
    last = int(np.flatnonzero(np.diff(ends, prepend=0.0) > 0)[-1])
    picked = np.minimum(np.searchsorted(ends, comb, side="right"), last)
    return random.permutation(order[picked])


def check_weights(weights: Tensor, size: int) -> None:
    """Raise DataError unless these are finite weights >= 0 of `size` images, not all of them 0."""
    if weights.shape != (size,):
        raise DataError(f"weights: expected one for each of {size} images, got shape {list(weights.shape)}")
    bad = int((~weights.isfinite() | (weights < 0)).sum())
    if bad or not float(weights.sum()) > 0:
        raise DataError(
            f"weights: expected finite numbers of at least 0 with a positive sum, got {bad} others of {size} "
            f"and the sum {float(weights.sum()):g}"
        )


def _classes_held(records: Sequence[SampledRecord]) -> list[set[int]]:
    _check_any(records)
    return [set(record.classes.tolist()) for record in records]


def _check_any(records: Sequence[SampledRecord]) -> None:
    if not len(records):
        raise DataError("expected at least one image to give weights to, got none")
