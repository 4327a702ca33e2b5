"""Base, novel and all: group means with equal weight per class, and their bootstrap intervals over images.

The open-vocabulary benchmark (OV-COCO: 48 base and 17 novel classes) reports AP50 of each group;
`all` is the mean over the classes of both. A class without a ground-truth box has no AP: it is left out and
counted.
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

#: LVIS's name -> letter in its files: APr, APc and APf are the means over these.
FREQUENCY_GROUPS = {"rare": "r", "common": "c", "frequent": "f"}


@dataclass(frozen=True, kw_only=True)
class GroupScore(Scores):
    """The mean of one group over its classes that have ground truth; every number in 0..1.

    Those of a size are over the classes that have a box of that size. classes: how many the mean is over; absent: how
    many of the group have no ground-truth box.
    """

    ap50: Estimate
    classes: int
    absent: int


def class_groups(base: Sequence[str], novel: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group name -> class names, `all` being both.

    Raises: DataError for names that are both base and novel, or listed twice, with their number.
    """
    listed = [*base, *novel]
    repeated = sorted(repeated_names(listed))
    if repeated:
        raise DataError(
            f"expected every class of the split once, as base or as novel, got {len(repeated)} repeated: "
            f"{', '.join(repeated[:5])}; remove the repetitions"
        )
    return {"novel": tuple(novel), "base": tuple(base), "all": tuple(listed)}


def frequency_groups(frequencies: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Rare, common and frequent -> class names, from class name -> letter (LVIS); empty where no class has one."""
    groups = {
        group: tuple(name for name, found in frequencies.items() if found == letter)
        for group, letter in FREQUENCY_GROUPS.items()
    }
    return {group: names for group, names in groups.items() if names}


def mean_curve(evaluation: BoxEvaluation, names: Collection[str]) -> FloatArray | None:
    """Precision [101] in 0..1 at recalls 0, 0.01, ..., 1 and IoU 0.5, the mean over the named classes.

    None where no class has a box. Its mean is the group's AP50.
    """
    once = np.ones(evaluation.images, dtype=np.int64)
    curves = [
        match.curve(once, float(match.positives.sum()))
        for score, match in zip(evaluation.scores, evaluation.matches, strict=True)
        if score.name in names and score.boxes
    ]
    return np.mean(curves, axis=0) if curves else None


def resampled_ap50(evaluation: BoxEvaluation, counts: IntArray) -> FloatArray:
    """AP50 of every class in every resample: [R, classes], NaN where a resample has no box of the class."""
    if not evaluation.matches:
        return np.empty((len(counts), 0))
    return np.stack([match.ap50(counts) for match in evaluation.matches], axis=1)


def group_scores(
    evaluation: BoxEvaluation,
    resampled: FloatArray,
    groups: Mapping[str, Collection[str]],
) -> dict[str, GroupScore]:
    """Group means of a box evaluation; `resampled` comes from `resampled_ap50`.

    Groups without classes are left out.
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
    """AP50 of `other` over AP50 of `plain`, per group, paired: both resampled with the same counts.

    Both evaluations hold the same classes in the same order. None where the plain AP50 is 0.
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
