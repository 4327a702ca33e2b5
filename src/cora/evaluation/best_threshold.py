"""The score threshold with the greatest F1 over all classes together, which a model can store.

F1 = 2 TP / (detections above the threshold + ground-truth boxes), micro-averaged: every detection has the same weight.
Matching is greedy in order of score, so matches above a threshold do not depend on detections below it: one matching
serves all thresholds.
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

#: Bounds on the threshold: a lower one would report noise, a higher one nothing at all.
LOWEST, HIGHEST = 0.05, 0.9

#: Part of a message that no detection is right.
NOTHING_RIGHT = f"at any score threshold from {LOWEST:g} to {HIGHEST:g}"

#: Digits behind the point that distinguish all floats below 1.
_MOST_DIGITS = 17


@dataclass(frozen=True, kw_only=True)
class BestThreshold:
    """A score threshold and the metrics of the detections above it.

    Attributes:
        threshold: only detections with a higher score count, 0..1.
        precision: share of these detections that are right, 0..1.
        recall: share of the ground-truth boxes that they find, 0..1.
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
    """The threshold with the greatest F1; of several, the highest.

    All thresholds between two neighbouring scores give the same F1. The result is the shortest number near the middle
    of this range, so that rounding differences between machines do not change it.

    Args:
        scores: [N] scores of the detections, 0..1, in any order, without those that are neither right nor wrong.
        right: [N] whether a detection matches a ground-truth box.
        positives: number of ground-truth boxes.
        lowest: lower bound on the threshold.
        highest: upper bound on the threshold.

    Returns:
        The threshold; None where no detection above any threshold is right, so that none is better than another.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(right[order])
    # One candidate for each range of thresholds with the same F1: its lower end.
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
    """`best_threshold` of matched detections; crowd boxes and detections on them do not count."""
    counted = ~matched.ignored
    positives = int((~matched.truth.crowd).sum())
    return best_threshold(matched.found.score[counted], matched.true[counted], positives)


def best_of_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, classes: Mapping[str, int]
) -> BestThreshold | None:
    """`best_threshold` of COCO results, matched to COCO annotations at IoU 0.5.

    Args:
        ground_truth: COCO dictionary; the rules of LVIS hold where it says which classes were looked for.
        results: COCO results, including all with scores above the lowest threshold.
        classes: class name -> category id of the classes that count.

    Raises:
        DataError: there are results of images that the ground truth lacks.
    """
    return best_of_matches(match_boxes(ground_truth, results, classes=classes))


def _between(low: float, high: float) -> float:
    """The shortest decimal near the middle of low <= t < high; `low` where there is none."""
    middle = (low + high) / 2
    for digits in range(2, _MOST_DIGITS):
        if low <= (value := round(middle, digits)) < high:
            return value
    return low


def store(detector: Detector, best: BestThreshold | None, *, distractors: Literal["none", "everyday"]) -> None:
    """Store in a detector its default distractors and, if one was found, its score threshold."""
    postprocess = replace(detector.config.postprocess, distractors=distractors)
    if best is not None:
        postprocess = replace(postprocess, score_threshold=best.threshold)
    detector.config = replace(detector.config, postprocess=postprocess)


def described(best: BestThreshold) -> str:
    """The threshold with its F1, precision and recall, as a sentence."""
    precision, recall = 100 * best.precision, 100 * best.recall
    return (
        f"Score threshold {best.threshold:g}, for the best F1: {100 * best.f1:.1f} % "
        f"(precision {precision:.1f} %, recall {recall:.1f} %)"
    )
