"""Example images for a report: well found, missed and confused objects.

An image is judged by its best detections, as many as it has ground-truth boxes (at least three). More would only add
detections of low score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray
from cora.evaluation.tide import KINDS, Errors

Kind = Literal["best", "missed", "confused"]

#: Detections of an image that are looked at, at least.
_FEWEST = 3
_CLASSIFICATION = KINDS.index("classification")


@dataclass(frozen=True)
class Example:
    """One image and the boxes to draw on it.

    image: place among the images; kind; found: indices of detections; missed: indices of true boxes; caption: one
    line.
    """

    image: int
    kind: Kind
    found: IntArray
    missed: IntArray
    caption: str


@dataclass(frozen=True)
class Confusion:
    """The classes that boxes of one class were confused with, among the best detections.

    name; boxes: true boxes; found: of them found under their own name; taken_for: (other name, how often), most
    frequent first.
    """

    name: str
    boxes: int
    found: int
    taken_for: tuple[tuple[str, int], ...]


def looked_at(errors: Errors) -> BoolArray:
    """[N] bool: the best detections of each image, as many as it has true boxes but at least three."""
    found, truth = errors.matched.found, errors.matched.truth
    limit = np.maximum(np.bincount(truth.image[~truth.crowd], minlength=errors.matched.images), _FEWEST)
    return found.places() < limit[found.image]


def choose_examples(errors: Errors, class_names: Sequence[str], *, each: int = 8) -> list[Example]:
    """Up to `each` images of every kind, none twice.

    confused: most score lost on objects of another class; best: most true boxes found among the detections looked at,
    by share, then number; missed: most true boxes not found.
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
    """The classes of lowest AP50, at equal AP50 those with most boxes, and what they were taken for.

    ap50: of every class, None for those without a box, which are left out.
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
    labels = errors.matched.truth.label
    pairs = [
        f"{class_names[labels[errors.target[place]]]} taken for {class_names[errors.matched.found.label[place]]}"
        for place in detections.tolist()
    ]
    return list(dict.fromkeys(pairs))
