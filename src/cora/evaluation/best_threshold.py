"""The score threshold of the greatest F1 over all classes together; stored in a model, and said in words.

F1 = 2 TP / (detections above the threshold + true boxes), micro-averaged: all detections have the same weight. Matching
is greedy in order of score, so matches above a threshold do not depend on detections below it: one matching serves all
thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from cora.detector import Detector
from cora.evaluation.bootstrap import BoolArray, FloatArray
from cora.evaluation.coco_ap import match_boxes
from cora.evaluation.matching import Matched

#: Bounds on the threshold: lower ones would let noise through, higher ones would let nothing through.
LOWEST, HIGHEST = 0.05, 0.9

#: Where the search found nothing.
NOTHING_RIGHT = f"at any score threshold from {LOWEST:g} to {HIGHEST:g}"

_MOST_DIGITS = 17


@dataclass(frozen=True, kw_only=True)
class BestThreshold:
    """A score threshold and the metrics of the detections above it.

    Attributes:
        threshold: only detections above it count, 0..1.
        precision: share of them that are right, 0..1.
        recall: share of the true boxes that they find, 0..1.
        f1: harmonic mean of both.
    """

    threshold: float
    precision: float
    recall: float
    f1: float

    def as_dict(self) -> dict[str, float]:
        """The fields under their names, for JSON."""
        return asdict(self)


def best_threshold(
    scores: FloatArray, right: BoolArray, positives: int, *, lowest: float = LOWEST, highest: float = HIGHEST
) -> BestThreshold | None:
    """The threshold of the greatest F1; among equal ones, of the highest range.

    All thresholds between two neighbouring scores are equal. The result is the shortest number near the middle of its
    range, so that rounding differences between machines do not change it.

    Args:
        scores: [N] of the detections, 0..1, in any order; those that are neither right nor wrong left out.
        right: [N] which of them match a true box.
        positives: true boxes.
        lowest: of the thresholds that are looked at.
        highest: of them.

    Returns:
        None where no detection above any threshold is right, so that no threshold is better than another.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(right[order])
    # One candidate at the lower end of every range of equal thresholds.
    inside = ordered[(ordered > lowest) & (ordered <= highest)]
    candidates = np.unique(np.append(inside, lowest))
    above = np.searchsorted(-ordered, -candidates, side="left")  # detections whose score is higher
    true = np.where(above > 0, hits[np.maximum(above, 1) - 1], 0) if len(hits) else np.zeros(len(candidates))
    f1 = 2 * true / np.maximum(above + positives, 1)
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    if not true[best]:
        return None
    end = float(candidates[best + 1]) if best + 1 < len(candidates) else highest
    return BestThreshold(
        threshold=_between(float(candidates[best]), end),
        precision=float(true[best] / above[best]),
        recall=float(true[best] / positives),
        f1=float(f1[best]),
    )


def best_of_matches(matched: Matched) -> BestThreshold | None:
    """`best_threshold` of detections that were matched to true boxes; crowd boxes and their detections do not count."""
    counted = ~matched.ignored
    positives = int((~matched.truth.crowd).sum())
    return best_threshold(matched.found.score[counted], matched.true[counted], positives)


def best_of_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, classes: Mapping[str, int]
) -> BestThreshold | None:
    """`best_threshold` of COCO results for COCO annotations, at IoU 0.5.

    Args:
        ground_truth: COCO dictionary; by the rules of LVIS where it says which classes were looked for.
        results: COCO results style, with all scores above the lowest threshold.
        classes: class name -> category id, the classes that count.

    Raises:
        DataError: results of images that the ground truth does not hold.
    """
    return best_of_matches(match_boxes(ground_truth, results, classes=classes))


def _between(low: float, high: float) -> float:
    """The shortest decimal near the middle of low <= t < high; `low` where there is nothing between."""
    middle = (low + high) / 2
    for digits in range(2, _MOST_DIGITS):
        if low <= (value := round(middle, digits)) < high:
            return value
    return low


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
