"""The kinds of errors of a detector and what each costs in AP50, by the method TIDE.

TIDE is from Bolya et al., *TIDE: A General Toolbox for Identifying Object Detection Errors*, ECCV 2020. Every false
positive has one kind, the first that fits (overlaps are IoUs):

- *localization*: it overlaps a box of its class by 0.1 to 0.5.
- *classification*: it overlaps a box of another class by 0.5 or more.
- *duplicate*: it overlaps a box of its class that a better detection has taken.
- *background*: it overlaps no box by more than 0.1.
- *both*: the rest, with a wrong class and a low overlap.

A ground-truth box is *missed* if no detection is matched to it, and no localization or classification error would be
once it is corrected.

The cost of a kind is the gain in AP50 from correcting it alone. A classification or localization error becomes right;
it is removed if its box has a match already, or a better error is corrected to it. Other false positives are removed,
and missed boxes no longer count. The shares of the kinds are those of the sum of their gains. Since kinds interact,
this sum is not the gain from correcting all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray
from cora.evaluation.matching import ClassMatches, Matched, class_matches, overlaps

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")

_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)

#: IoU up to which a detection lies on background.
BACKGROUND_IOU = 0.1
_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Errors:
    """The kind of every error.

    Attributes:
        matched: N detections and T ground-truth boxes.
        kind: [N] int64 index into `KINDS` of each detection, -1 for right and ignored ones.
        target: [N] int64 index of the box that a classification or localization error belongs to, -1 for other
            detections.
        missed: [T] bool, whether a box is missed.
    """

    matched: Matched
    kind: IntArray
    target: IntArray
    missed: BoolArray

    def counts(self, labels: Collection[int]) -> dict[str, int]:
        """Number of errors of each kind, on detections and ground-truth boxes of these classes."""
        wanted = np.isin(self.matched.found.label, list(labels))
        of_truth = np.isin(self.matched.truth.label, list(labels))
        detections = {name: int((wanted & (self.kind == place)).sum()) for place, name in enumerate(KINDS[:-1])}
        return {**detections, "missed": int((of_truth & self.missed).sum())}


@dataclass(frozen=True)
class ErrorShares:
    """The cost of each kind of error, for a group of classes.

    Attributes:
        ap50: AP50 without corrections, 0..1.
        gains: kind -> gain in AP50 from correcting it; may be negative.
        shares: kind -> share in the sum of the positive gains; all 0 where there is none.
        counts: kind -> number of errors, including those of classes without a ground-truth box.
    """

    ap50: float
    gains: dict[str, float]
    shares: dict[str, float]
    counts: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The fields under their names, for JSON."""
        return {"ap50": self.ap50, "gains": self.gains, "shares": self.shares, "counts": self.counts}


def find_errors(matched: Matched) -> Errors:
    """Find the kind of every false positive, and the missed boxes."""
    found, truth = matched.found, matched.truth
    detection, box, iou = overlaps(found, truth, at_least=BACKGROUND_IOU)
    real = ~truth.crowd[box]
    detection, box, iou = detection[real], box[real], iou[real]
    same = found.label[detection] == truth.label[box]
    own, own_box = _best(len(found), detection[same], box[same], iou[same])
    other, other_box = _best(len(found), detection[~same], box[~same], iou[~same])
    overlap = np.maximum(own, other)

    wrong = (matched.partner < 0) & ~matched.ignored
    localization = wrong & (own >= BACKGROUND_IOU) & (own < _MATCH_IOU)
    classification = wrong & ~localization & (other >= _MATCH_IOU)
    # A false positive that overlaps a box of its class by 0.5 or more lost it to a better detection.
    duplicate = wrong & ~localization & ~classification & (own >= _MATCH_IOU)
    background = wrong & ~localization & ~classification & ~duplicate & (overlap <= BACKGROUND_IOU)
    kind = np.full(len(found), -1, dtype=np.int64)
    kind[wrong] = _BOTH
    for mask, place in (
        (localization, _LOCALIZATION),
        (classification, _CLASSIFICATION),
        (duplicate, _DUPLICATE),
        (background, _BACKGROUND),
    ):
        kind[mask] = place
    target = np.full(len(found), -1, dtype=np.int64)
    target[localization] = own_box[localization]
    target[classification] = other_box[classification]

    covered = np.zeros(len(truth.image), dtype=bool)
    covered[matched.partner[matched.partner >= 0]] = True
    covered[target[target >= 0]] = True
    return Errors(matched, kind, target, ~covered & ~truth.crowd)


def error_shares(
    errors: Errors, class_names: Sequence[str], groups: Mapping[str, Collection[str]]
) -> dict[str, ErrorShares]:
    """The cost of each kind, as a mean over those classes of a group that have ground truth.

    Args:
        errors: the kind of every error.
        class_names: class names in the order of the labels.
        groups: group -> class names; groups without ground truth are left out.
    """
    plain = _ap50(errors.matched.by_class())
    corrected = {name: _ap50(_corrected(errors, place)) for place, name in enumerate(KINDS)}
    answer = {}
    for group, names in groups.items():
        labels = [place for place, name in enumerate(class_names) if name in names and np.isfinite(plain[place])]
        if not labels:
            continue
        before = float(plain[labels].mean())
        # A class whose boxes are all missed has none left after the correction, and so no AP: its AP50 stays.
        gains = {
            name: float(np.where(np.isfinite(after[labels]), after[labels], plain[labels]).mean()) - before
            for name, after in corrected.items()
        }
        # A corrected class may bring a false alarm into another class: such a loss has no share.
        costs = {name: max(gain, 0.0) for name, gain in gains.items()}
        total = sum(costs.values())
        shares = {name: cost / total if total else 0.0 for name, cost in costs.items()}
        every = [place for place, name in enumerate(class_names) if name in names]
        answer[group] = ErrorShares(before, gains, shares, errors.counts(every))
    return answer


def _best(count: int, detection: IntArray, box: IntArray, iou: FloatArray) -> tuple[FloatArray, IntArray]:
    """Highest IoU of each of `count` detections, and the box that it is with; 0 and -1 without a box."""
    order = np.lexsort((-box, iou, detection))
    best, best_box = np.zeros(count), np.full(count, -1, dtype=np.int64)
    # For repeated indices, numpy keeps the last value, which is the highest.
    best[detection[order]] = iou[order]
    best_box[detection[order]] = box[order]
    return best, best_box


def _corrected(errors: Errors, place: int) -> tuple[ClassMatches, ...]:
    """The matches after all errors of one kind, by its index in `KINDS`, are corrected."""
    matched = errors.matched
    order = matched.found.by_score()
    label, true, keep = matched.found.label.copy(), matched.true.copy(), np.ones(len(order), dtype=bool)
    hit = errors.kind == place
    if place in (_CLASSIFICATION, _LOCALIZATION):
        taken = np.zeros(len(matched.truth.image), dtype=bool)
        taken[matched.partner[matched.true]] = True
        for row in order[hit[order]].tolist():
            box = int(errors.target[row])
            keep[row] = not taken[box]
            taken[box] = True
        true |= hit & keep
        label[hit] = matched.truth.label[errors.target[hit]]
    else:
        keep &= ~hit
    rows = order[keep[order]]
    return class_matches(
        label=label[rows],
        true=true[rows],
        counted=~matched.ignored[rows],
        image=matched.found.image[rows],
        truth=matched.truth,
        images=matched.images,
        classes=matched.classes,
        missing=errors.missed if place == KINDS.index("missed") else None,
    )


def _ap50(matches: Sequence[ClassMatches]) -> FloatArray:
    """AP50 of every class: [classes], NaN without a box."""
    if not matches:
        return np.empty(0)
    once = np.ones((1, len(matches[0].positives)), dtype=np.int64)
    return np.concatenate([match.ap50(once) for match in matches])
