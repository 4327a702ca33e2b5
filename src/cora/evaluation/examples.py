"""Chooses example images for a report: with objects that were found, missed or confused.

Only the best detections of each image count: as many as it has ground-truth boxes, but at least three. More would only
add detections of low score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray
from cora.evaluation.tide import KINDS, Errors

Kind = Literal["best", "missed", "confused"]

#: Detections of an image that count in any case.
_FEWEST = 3
_CLASSIFICATION = KINDS.index("classification")


@dataclass(frozen=True)
class Example:
    """One image and the boxes to draw on it.

    Attributes:
        image: index of the image.
        kind: what it is an example of.
        found: indices of the detections to draw.
        missed: indices of the ground-truth boxes to draw.
        caption: one line.
    """

    image: int
    kind: Kind
    found: IntArray
    missed: IntArray
    caption: str


@dataclass(frozen=True)
class Confusion:
    """What the boxes of one class were taken for, among the best detections of each image.

    Attributes:
        name: class name.
        boxes: number of its ground-truth boxes.
        found: number of these that were found with the right class.
        taken_for: other class names and how often each was chosen, the most frequent first.
    """

    name: str
    boxes: int
    found: int
    taken_for: tuple[tuple[str, int], ...]


def looked_at(errors: Errors) -> BoolArray:
    """[N] bool: whether a detection is among the best of its image, as many as it has boxes, but at least three."""
    found, truth = errors.matched.found, errors.matched.truth
    limit = np.maximum(np.bincount(truth.image[~truth.crowd], minlength=errors.matched.images), _FEWEST)
    return found.places() < limit[found.image]


def choose_examples(errors: Errors, class_names: Sequence[str], *, each: int = 8) -> list[Example]:
    """Choose up to `each` images of every kind, none twice.

    - confused: the greatest sum of scores of detections with a wrong class.
    - best: the greatest share of ground-truth boxes found; of equal shares, the most boxes.
    - missed: the most ground-truth boxes that were not found.
    """
    matched = errors.matched
    found, truth = matched.found, matched.truth
    seen = looked_at(errors)
    hit = seen & matched.true
    wrong = seen & (errors.kind == _CLASSIFICATION)
    boxes = np.bincount(truth.image[~truth.crowd], minlength=matched.images)
    hits = np.bincount(found.image[hit], minlength=matched.images)
    lost = np.bincount(found.image[wrong], weights=found.score[wrong], minlength=matched.images)
    reached = np.zeros(len(truth.image), dtype=bool)
    reached[matched.partner[hit]] = True
    unseen = ~reached & ~truth.crowd
    share = np.divide(hits, boxes, out=np.zeros(matched.images), where=boxes > 0)

    chosen: list[Example] = []
    used: set[int] = set()
    rankings: tuple[tuple[Kind, tuple[FloatArray | IntArray, ...]], ...] = (
        ("confused", (lost,)),
        ("best", (hits, share)),
        ("missed", (boxes - hits,)),
    )
    for kind, keys in rankings:
        order = [place for place in np.lexsort(keys)[::-1].tolist() if place not in used and keys[0][place] > 0]
        for image in order[:each]:
            used.add(image)
            here = found.image == image
            taken = np.flatnonzero(here & (wrong if kind == "confused" else hit))
            missed = (
                np.flatnonzero((truth.image == image) & unseen) if kind == "missed" else np.empty(0, dtype=np.int64)
            )
            caption = f"{hits[image]} of {boxes[image]} found"
            if kind == "confused":
                caption = ", ".join(_mistakes(errors, taken, class_names))
            chosen.append(Example(image, kind, taken, missed, caption))
    return chosen


def worst_confusions(
    errors: Errors, class_names: Sequence[str], ap50: Sequence[float | None], *, most: int = 12
) -> list[Confusion]:
    """The classes with the lowest AP50 and what they were taken for; of equal AP50, those with the most boxes first.

    Args:
        errors: errors of the evaluation.
        class_names: class names in the order of the labels.
        ap50: AP50 of every class; None for a class without a box, which is left out.
        most: greatest number of classes.
    """
    matched = errors.matched
    seen = looked_at(errors)
    labels = matched.truth.label
    boxes = np.bincount(labels[~matched.truth.crowd], minlength=len(class_names))
    hits = np.bincount(labels[matched.partner[seen & matched.true]], minlength=len(class_names))
    wrong = seen & (errors.kind == _CLASSIFICATION)
    taken: dict[int, dict[int, int]] = {}
    for true, chosen in zip(labels[errors.target[wrong]].tolist(), matched.found.label[wrong].tolist(), strict=True):
        counts = taken.setdefault(true, {})
        counts[chosen] = counts.get(chosen, 0) + 1
    known = [(value, -int(boxes[place]), place) for place, value in enumerate(ap50) if value is not None]
    return [
        Confusion(
            name=class_names[place],
            boxes=int(boxes[place]),
            found=int(hits[place]),
            taken_for=tuple(
                (class_names[other], count)
                for other, count in sorted(taken.get(place, {}).items(), key=lambda item: (-item[1], item[0]))
            ),
        )
        for _, _, place in sorted(known)[:most]
    ]


def _mistakes(errors: Errors, detections: IntArray, class_names: Sequence[str]) -> list[str]:
    """Descriptions of detections with a wrong class, each once."""
    labels = errors.matched.truth.label
    pairs = [
        f"{class_names[labels[errors.target[place]]]} taken for {class_names[errors.matched.found.label[place]]}"
        for place in detections.tolist()
    ]
    return list(dict.fromkeys(pairs))
