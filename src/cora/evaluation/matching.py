"""Boxes as columns, and COCO's greedy matching of detections to true boxes at one overlap.

The rules are pycocotools': detections take turns by falling score; each takes the free true box of its class that it
overlaps most, a crowd box only where no other is left; crowd boxes take any number. Of LVIS (Gupta et al., 2019) two
more: detections of classes that were not looked for in an image do not count, nor do unmatched ones of classes of
which some objects have no box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray

RECALL_THRESHOLDS: FloatArray = np.linspace(0.0, 1.0, 101)

#: Detections that are compared with the true boxes of their image at once; bounds the memory.
_CHUNK = 100_000


@dataclass(frozen=True)
class TrueBoxes:
    """Ground truth in columns.

    image: [T] int64 place among the images; label: [T] int64 place among the classes; xywh: [T, 4] pixels; area: [T]
    px², of the mask where the file says so; crowd: [T] bool.
    """

    image: IntArray
    label: IntArray
    xywh: FloatArray
    area: FloatArray
    crowd: BoolArray


@dataclass(frozen=True)
class FoundBoxes:
    """Detections in columns: image and label [N] int64 as in `TrueBoxes`, xywh [N, 4] pixels, score [N]."""

    image: IntArray
    label: IntArray
    xywh: FloatArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.score)

    def at(self, chosen: IntArray | BoolArray) -> FoundBoxes:
        """The chosen ones, in the order of the indices."""
        return FoundBoxes(self.image[chosen], self.label[chosen], self.xywh[chosen], self.score[chosen])

    def by_score(self) -> IntArray:
        """[N] indices by falling score; equal scores by image, then as they came (pycocotools sorts like this)."""
        return np.lexsort((self.image, -self.score))

    def places(self) -> IntArray:
        """Place [N] of each detection among those of its image, 0 for the best; of equal scores the first is better."""
        order = np.lexsort((-self.score, self.image))
        image, places = self.image[order], np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order)) - np.searchsorted(image, image, side="left")
        return places


@dataclass(frozen=True)
class Federation:
    """What is known of an image besides its boxes (LVIS): one pair of sets for each image, of places of classes.

    negative: looked for and absent; not_exhaustive: some objects have no box.
    """

    negative: Sequence[frozenset[int]]
    not_exhaustive: Sequence[frozenset[int]]


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, matched at IoU 0.5, by falling score.

    true: [D] bool, matched a box that counts; counted: [D] bool, neither matched to a crowd box nor otherwise
    ignored; image_index: [D] int64 into the images; positives: [I] int64, ground-truth boxes that count in
    each image.
    """

    true: BoolArray
    counted: BoolArray
    image_index: IntArray
    positives: IntArray

    def ap50(self, counts: IntArray) -> FloatArray:
        """AP50 under image multiplicities `counts` [R, I]: [R] in 0..1, NaN where no such box was drawn.

        A detection of an image drawn twice counts twice. That equals repeating it in the list: the precision
        envelope hides the points between equal scores.
        """
        positives = counts @ self.positives
        average: FloatArray = np.full(len(counts), np.nan)
        for row in np.flatnonzero(positives):
            average[row] = self.curve(counts[row], float(positives[row])).mean()
        return average

    def curve(self, weights: IntArray, positives: float) -> FloatArray:
        """Precision [101] in 0..1 at recalls 0, 0.01, ..., 1, of images weighted by `weights` [I].

        positives: weighted number of boxes that count, above 0.
        """
        hits = self.true & self.counted
        # What comes after the last hit changes no precision at a recall that is reached.
        end = int(np.flatnonzero(hits)[-1]) + 1 if hits.any() else 0
        weight = weights[self.image_index[:end]]
        true = np.cumsum(weight * hits[:end], dtype=np.float64)
        false = np.cumsum(weight * (~self.true & self.counted)[:end], dtype=np.float64)
        precision = true / (true + false + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(true / positives, RECALL_THRESHOLDS, side="left")
        # Recall thresholds that are never reached have precision 0: the appended entry.
        return np.append(envelope, 0.0)[reached]


@dataclass(frozen=True)
class Matched:
    """Detections and true boxes, matched at IoU 0.5.

    truth: T boxes; found: N detections; partner: [N] int64 true box of each detection, -1 for none; ignored: [N] bool,
    neither right nor wrong; images, classes: how many there are.
    """

    truth: TrueBoxes
    found: FoundBoxes
    partner: IntArray
    ignored: BoolArray
    images: int
    classes: int

    @property
    def true(self) -> BoolArray:
        """[N] bool: matched to a box that counts."""
        return (self.partner >= 0) & ~self.ignored

    def by_class(self) -> tuple[ClassMatches, ...]:
        """The matches of every class."""
        order = self.found.by_score()
        return class_matches(
            label=self.found.label[order],
            true=self.true[order],
            counted=~self.ignored[order],
            image=self.found.image[order],
            truth=self.truth,
            images=self.images,
            classes=self.classes,
        )


def class_matches(
    *,
    label: IntArray,
    true: BoolArray,
    counted: BoolArray,
    image: IntArray,
    truth: TrueBoxes,
    images: int,
    classes: int,
    missing: BoolArray | None = None,
) -> tuple[ClassMatches, ...]:
    """Divide detections that are sorted by falling score into classes.

    label, true, counted, image: [N] of each detection; truth: all true boxes; missing: [T] bool, true boxes that are
    not to count.
    """
    positive = ~truth.crowd if missing is None else ~truth.crowd & ~missing
    answer = []
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(classes + 1))
    for index in range(classes):
        rows = order[bounds[index] : bounds[index + 1]]
        boxes = truth.image[positive & (truth.label == index)]
        answer.append(
            ClassMatches(true[rows], counted[rows], image[rows], np.bincount(boxes, minlength=images).astype(np.int64))
        )
    return tuple(answer)


def true_boxes(
    annotations: Iterable[Mapping[str, Any]], places: Mapping[int, int], labels: Mapping[int, int]
) -> TrueBoxes:
    """Columns of COCO annotations; image id -> place and category id -> place tell which count."""
    chosen = [a for a in annotations if a["image_id"] in places and a["category_id"] in labels]
    xywh = np.array([a["bbox"] for a in chosen], dtype=np.float64).reshape(-1, 4)
    return TrueBoxes(
        image=np.array([places[a["image_id"]] for a in chosen], dtype=np.int64),
        label=np.array([labels[a["category_id"]] for a in chosen], dtype=np.int64),
        xywh=xywh,
        area=np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in chosen], dtype=np.float64),
        crowd=np.array([a.get("iscrowd", 0) for a in chosen], dtype=bool),
    )


def found_boxes(
    results: Iterable[Mapping[str, Any]], places: Mapping[int, int], labels: Mapping[int, int]
) -> FoundBoxes:
    """Columns of COCO results, those of other categories left out."""
    chosen = [r for r in results if r["category_id"] in labels]
    return FoundBoxes(
        image=np.array([places[r["image_id"]] for r in chosen], dtype=np.int64),
        label=np.array([labels[r["category_id"]] for r in chosen], dtype=np.int64),
        xywh=np.array([r["bbox"] for r in chosen], dtype=np.float64).reshape(-1, 4),
        score=np.array([r["score"] for r in chosen], dtype=np.float64),
    )


def keep_best(found: FoundBoxes, limit: int) -> FoundBoxes:
    """The `limit` best-scored detections of each image over all classes, in the order they came.

    pycocotools limits the detections per image *and class*, which is more generous than the benchmark's rule.
    """
    return found.at(found.places() < limit)


def keep_known(found: FoundBoxes, truth: TrueBoxes, federation: Federation, classes: int) -> FoundBoxes:
    """Without detections of classes that were not looked for in their image."""
    looked_for = [image * classes + label for image, labels in enumerate(federation.negative) for label in labels]
    keys = np.union1d(truth.image * classes + truth.label, np.array(looked_for, dtype=np.int64))
    return found.at(np.isin(found.image * classes + found.label, keys))


def overlaps(found: FoundBoxes, truth: TrueBoxes, *, at_least: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of detections and true boxes of the same image, of any classes, that overlap by `at_least` (above 0).

    Returns: index of the detection, of the true box, and IoU (over a crowd box, the share of the detection), each [P].
    """
    by_image = np.argsort(truth.image, kind="stable")
    image = truth.image[by_image]
    parts = []
    for start in range(0, len(found), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(found)))
        first = np.searchsorted(image, found.image[rows], side="left")
        counts = np.searchsorted(image, found.image[rows], side="right") - first
        detections = np.repeat(rows, counts)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        boxes = by_image[np.repeat(first, counts) + within]
        iou = _iou(found.xywh[detections], truth.xywh[boxes], truth.crowd[boxes])
        near = iou >= at_least
        parts.append((detections[near], boxes[near], iou[near]))
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    detections, boxes, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detections, boxes, iou


def _iou(found: FloatArray, truth: FloatArray, crowd: BoolArray) -> FloatArray:
    """Overlap of row i with row i, in the order of operations of pycocotools, so that equal means equal."""
    end = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:])
    sides = np.maximum(end - np.maximum(found[:, :2], truth[:, :2]), 0.0)
    shared = sides[:, 0] * sides[:, 1]
    area = found[:, 2] * found[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - shared)
    answer: FloatArray = np.zeros(len(shared))
    np.divide(shared, union, out=answer, where=(shared > 0) & (union > 0))
    return answer


def match(
    found: FoundBoxes,
    truth: TrueBoxes,
    *,
    images: int,
    classes: int,
    federation: Federation | None = None,
    iou: float = 0.5,
) -> Matched:
    """Match at one overlap, in 0..1 without its ends."""
    detections, boxes, shares = overlaps(found, truth, at_least=iou)
    same = found.label[detections] == truth.label[boxes]
    detections, boxes, shares = detections[same], boxes[same], shares[same]
    rank = np.empty(len(found), dtype=np.int64)
    rank[found.by_score()] = np.arange(len(found))
    # Of equal overlaps the later box wins, as in pycocotools; crowd boxes come last.
    order = np.lexsort((-boxes, -shares, truth.crowd[boxes], rank[detections]))
    partner = np.full(len(found), -1, dtype=np.int64)
    free = np.ones(len(truth.image), dtype=bool).tolist()
    crowd = truth.crowd.tolist()
    taken: dict[int, int] = {}
    for detection, box in zip(detections[order].tolist(), boxes[order].tolist(), strict=True):
        if detection not in taken and (free[box] or crowd[box]):
            taken[detection] = box
            free[box] = False
    if taken:
        partner[np.fromiter(taken.keys(), np.int64)] = np.fromiter(taken.values(), np.int64)
    ignored = partner >= 0
    ignored[ignored] = truth.crowd[partner[ignored]]
    if federation is not None:
        keys = [image * classes + label for image, labels in enumerate(federation.not_exhaustive) for label in labels]
        ignored |= (partner < 0) & np.isin(found.image * classes + found.label, np.array(keys, dtype=np.int64))
    return Matched(truth, found, partner, ignored, images, classes)
