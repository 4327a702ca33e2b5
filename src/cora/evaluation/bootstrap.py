"""Percentile bootstrap over images: how much a metric varies between samples of images (Efron & Tibshirani, 1993).

A resample is a vector of counts: how often each image was drawn. Metrics take these counts as weights of the images, so
that nothing is matched again. Two metrics with the same counts are paired, so that their difference or ratio has a
meaningful interval.

The AP of classes with few boxes rises a little in resamples, since repeated images repeat lucky hits. So a low AP tends
to lie in the lower half of its interval; the intervals are not corrected for this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

RESAMPLES = 200
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its bootstrap interval; None where it cannot be computed, as without ground truth."""

    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """The three numbers under their names, for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def text(self, *, scale: float = 100.0, form: str = ".1f", between: str = "-", unit: str = "") -> str:
        """The number with its interval in brackets, in percent by default; "-" where there is none."""
        if self.value is None:
            return "-"
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" ({scale * self.low:{form}}{between}{scale * self.high:{form}})"
        return f"{scale * self.value:{form}}{unit}{interval}"


def resample_counts(images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> IntArray:
    """Draw `resamples` samples of `images` images with replacement.

    Returns:
        [R, images] int64 multiplicities, each row with the sum `images`. Equal arguments give equal rows.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"expected at least one image and one resample, got {images} and {resamples}")
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1.0 / images), size=resamples).astype(np.int64)


def estimate(value: float, resampled: FloatArray) -> Estimate:
    """The value with the 2.5 and 97.5 percentiles of `resampled` [R], of which NaN are left out."""
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Estimate(value=float(value), low=None, high=None)
    low, high = np.percentile(known, PERCENTILES)
    return Estimate(value=float(value), low=float(low), high=float(high))


def whole_first(counts: IntArray) -> IntArray:
    """Counts [1 + R, images]: `counts`, after a first row that takes every image once and gives the measured value."""
    return np.concatenate([np.ones_like(counts[:1]), counts])


def estimate_of(values: FloatArray) -> Estimate:
    """The estimate of values [1 + R] that were computed with the counts of `whole_first`."""
    return estimate(float(values[0]), values[1:])


def mean_of_known(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN where all are NaN."""
    # numpy's nanmean warns where all are NaN.
    known = np.isfinite(values)
    return divided(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def divided(part: FloatArray, whole: FloatArray | IntArray) -> FloatArray:
    """`part / whole`; NaN where the whole is 0."""
    share: FloatArray = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
