"""Scores of groups of classes: means over their classes, with bootstrap intervals over images.

The open-vocabulary benchmarks report the AP50 of base, novel and all classes (OV-COCO: 48 base, 17 novel). A class
without a ground-truth box has no AP: it is left out of the means and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from cora.errors import DataError
from cora.evaluation.bootstrap import Estimate, FloatArray, IntArray, divided, estimate, mean_of_known
from cora.evaluation.coco_ap import BoxEvaluation, Scores
from cora.names import repeated_names

GROUPS = ("novel", "base", "all")

#: Group of LVIS -> letter in its files. APr, APc and APf are the means over these groups.
FREQUENCY_GROUPS = {"rare": "r", "common": "c", "frequent": "f"}


@dataclass(frozen=True, kw_only=True)
class GroupScore(Scores):
    """Mean scores of a group over its classes with ground truth, each in 0..1.

    The mean of a score of one size is over the classes that have a box of that size.

    Attributes:
        ap50: AP at IoU 0.5, with its interval.
        classes: number of classes that the means are over.
        absent: number of classes of the group without a ground-truth box.
    """

    ap50: Estimate
    classes: int
    absent: int


def class_groups(base: Sequence[str], novel: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group -> class names, for the groups novel, base and all.

    Raises:
        DataError: a class is both base and novel, or is listed twice.
    """
    names = [*base, *novel]
    repeated = sorted(repeated_names(names))
    if repeated:
        raise DataError(
            f"expected every class of the split once, as base or as novel, got {len(repeated)} repeated: "
            f"{', '.join(repeated[:5])}; remove the repetitions"
        )
    return {"novel": tuple(novel), "base": tuple(base), "all": tuple(names)}


def frequency_groups(frequencies: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Rare, common and frequent -> class names, of class name -> letter (LVIS); groups without a class are left out."""
    groups = {
        group: tuple(name for name, found in frequencies.items() if found == letter)
        for group, letter in FREQUENCY_GROUPS.items()
    }
    return {group: names for group, names in groups.items() if names}


def mean_curve(evaluation: BoxEvaluation, names: Collection[str]) -> FloatArray | None:
    """Mean precision of the named classes at recalls 0, 0.01, ..., 1 and IoU 0.5: [101] in 0..1.

    None where no class has a box. The mean of the curve is the AP50 of the group.
    """
    once = np.ones(evaluation.images, dtype=np.int64)
    curves = [
        match.curve(once, float(match.positives.sum()))
        for score, match in zip(evaluation.scores, evaluation.matches, strict=True)
        if score.name in names and score.boxes
    ]
    return np.mean(curves, axis=0) if curves else None


def resampled_ap50(evaluation: BoxEvaluation, counts: IntArray) -> FloatArray:
    """AP50 of every class in every resample: [R, C], NaN where a resample has no box of the class.

    Args:
        evaluation: matches of C classes.
        counts: [R, images] multiplicities (`bootstrap.resample_counts`).
    """
    if not evaluation.matches:
        return np.empty((len(counts), 0))
    return np.stack([match.ap50(counts) for match in evaluation.matches], axis=1)


def group_scores(
    evaluation: BoxEvaluation,
    resampled: FloatArray,
    groups: Mapping[str, Collection[str]],
) -> dict[str, GroupScore]:
    """Mean scores of every group; groups without a class of the evaluation are left out.

    Args:
        evaluation: scores of C classes.
        resampled: [R, C] AP50, of `resampled_ap50`.
        groups: group -> class names.
    """
    answer = {}
    for group, names in groups.items():
        columns = [index for index, score in enumerate(evaluation.scores) if score.name in names]
        if not columns:
            continue
        chosen = [evaluation.scores[index] for index in columns]
        present = [score for score in chosen if score.boxes]
        ap50 = _mean([score.ap50 for score in present])
        answer[group] = GroupScore(
            ap50=estimate(np.nan if ap50 is None else ap50, mean_of_known(resampled[:, columns])),
            classes=len(present),
            absent=len(chosen) - len(present),
            **{
                name: _mean([getattr(score, name) for score in present])
                for name in (field.name for field in fields(Scores))
            },
        )
    return answer


def group_ratios(
    plain: BoxEvaluation,
    other: BoxEvaluation,
    plain_resampled: FloatArray,
    other_resampled: FloatArray,
    groups: Mapping[str, Collection[str]],
) -> dict[str, Estimate]:
    """AP50 of `other` divided by AP50 of `plain`, for every group; None where the plain AP50 is 0.

    Both evaluations have the same classes in the same order. Both were resampled with the same counts, so that the
    intervals are those of paired resamples.
    """
    answer = {}
    for group, names in groups.items():
        columns = [i for i, score in enumerate(plain.scores) if score.name in names]
        if not columns:
            continue
        below = _mean([plain.scores[i].ap50 for i in columns if plain.scores[i].boxes])
        above = _mean([other.scores[i].ap50 for i in columns if other.scores[i].boxes])
        value = above / below if above is not None and below else np.nan
        means = (mean_of_known(resampled[:, columns]) for resampled in (other_resampled, plain_resampled))
        answer[group] = estimate(value, divided(*means))
    return answer


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
