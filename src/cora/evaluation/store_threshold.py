"""The score threshold of a model: stored in it, and said in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from cora.detector import Detector
from cora.evaluation.best_threshold import HIGHEST, LOWEST, BestThreshold

#: Where the search found nothing.
NOTHING_RIGHT = f"at any score threshold from {LOWEST:g} to {HIGHEST:g}"


def store(detector: Detector, best: BestThreshold | None, *, distractors: Literal["none", "everyday"]) -> None:
    """Give a detector its score threshold, where one was found, and what competes with the classes of a call."""
    postprocess = replace(detector.config.postprocess, distractors=distractors)
    if best is not None:
        postprocess = replace(postprocess, score_threshold=best.threshold)
    detector.config = replace(detector.config, postprocess=postprocess)


def described(best: BestThreshold) -> str:
    """Threshold and what is above it, for people."""
    precision, recall = 100 * best.precision, 100 * best.recall
    return (
        f"Score threshold {best.threshold:g}, for the best F1: {100 * best.f1:.1f} % "
        f"(precision {precision:.1f} %, recall {recall:.1f} %)"
    )


def images_of(count: int) -> str:
    """The number of images in words."""
    return f"{count} image{'s' * (count != 1)}"
