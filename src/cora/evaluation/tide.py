"""What kinds of errors cost AP, from predictions and ground truth alone.

This is TIDE (Bolya et al., *TIDE: A General Toolbox for Identifying Object Detection Errors*, ECCV 2020).
Every false positive has exactly one kind, the first that fits:
*localization* (overlaps a box of its class by 0.1 to 0.5), *classification* (overlaps a box of another class by 0.5 or
more), *duplicate* (overlaps a box of its class that a better one has taken), *background* (overlaps no box by more than
0.1), and *both* (what remains: wrong class and loose). A true box that no detection matches, and none of the first two
kinds would match once corrected, is *missed*. The cost of a kind is the AP50 gained by correcting it alone:
classification and localization errors become right (or are removed, if their box is matched already or a better
detection is corrected to it), other false positives are removed, missed boxes no longer count.

Shares are of the sum over the kinds. Kinds interact, so the sum is not the gain of correcting all of them.
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

#: Overlap below which a detection lies on background.
BACKGROUND_IOU = 0.1
_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Errors:
    """The kind of every error.

    matched: what was sorted; kind: [N] int64 place in `KINDS` of each detection, -1 for right and ignored ones;
    target: [N] int64 the true box that a classification or localization error is about, -1 for others; missed: [T]
    bool.
    """

    matched: Matched
    kind: IntArray
    target: IntArray
    missed: BoolArray

    def counts(self, labels: Collection[int]) -> dict[str, int]:
        """Errors by kind, of detections and true boxes of these classes."""
        wanted = np.isin(self.matched.found.label, list(labels))
        of_truth = np.isin(self.matched.truth.label, list(labels))
        detections = {name: int((wanted & (self.kind == place)).sum()) for place, name in enumerate(KINDS[:-1])}
        return {**detections, "missed": int((of_truth & self.missed).sum())}


@dataclass(frozen=True)
class ErrorShares:
    """AP50 gained by correcting each kind of error, for a group of classes.

    ap50: as it is, 0..1; gains: kind -> AP50 gained, 0..1; shares: kind -> part of the sum of gains, summing to 1,
    or all 0 where nothing would gain; counts: kind -> number of errors, in classes without a true box, too.
    """

    ap50: float
    gains: dict[str, float]
    shares: dict[str, float]
    counts: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The fields under their names, for JSON."""
        return {"ap50": self.ap50, "gains": self.gains, "shares": self.shares, "counts": self.counts}


def find_errors(matched: Matched) -> Errors:
    """Sort every false positive and every unmatched true box into one kind."""
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
    # A false positive over a box of its class by 0.5 or more lost it to a better one.
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
    """What each kind costs, as means over the classes of every group that have a true box; groups without are left out.

    class_names: in the order of the labels.
    """
    plain = _ap50(errors.matched.by_class())
    mended = {name: _ap50(_mended(errors, place)) for place, name in enumerate(KINDS)}
    answer = {}
    for group, names in groups.items():
        labels = [place for place, name in enumerate(class_names) if name in names and np.isfinite(plain[place])]
        if not labels:
            continue
        before = float(plain[labels].mean())
        # A class all of whose boxes are missed has nothing left to find: nothing is known to be gained or lost there.
        gains = {
            name: float(np.where(np.isfinite(after[labels]), after[labels], plain[labels]).mean()) - before
            for name, after in mended.items()
        }
        # Mending the class of a detection may bring a false alarm into a better class: a loss, and no share of it.
        costs = {name: max(gain, 0.0) for name, gain in gains.items()}
        total = sum(costs.values())
        shares = {name: cost / total if total else 0.0 for name, cost in costs.items()}
        every = [place for place, name in enumerate(class_names) if name in names]
        answer[group] = ErrorShares(before, gains, shares, errors.counts(every))
    return answer


def _best(count: int, detection: IntArray, box: IntArray, iou: FloatArray) -> tuple[FloatArray, IntArray]:
    """Highest overlap of each of `count` detections and its box: 0 and -1 for none."""
    order = np.lexsort((-box, iou, detection))
    best, best_box = np.zeros(count), np.full(count, -1, dtype=np.int64)
    # The last of repeated indices is what numpy keeps.
    best[detection[order]] = iou[order]
    best_box[detection[order]] = box[order]
    return best, best_box


def _mended(errors: Errors, place: int) -> tuple[ClassMatches, ...]:
    """The matches with all errors of one kind corrected."""
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
    """AP50 of every class, [classes], NaN without a box."""
    if not matches:
        return np.empty(0)
    once = np.ones((1, len(matches[0].positives)), dtype=np.int64)
    return np.concatenate([match.ap50(once) for match in matches])
