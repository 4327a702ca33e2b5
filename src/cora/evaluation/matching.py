"""COCO's greedy matching of detections to ground-truth boxes at one IoU, on boxes in columns.

The rules are those of pycocotools. Detections take turns in order of falling score. Each is matched to the free box of
its class that it overlaps most; to a crowd box only where no other is left. A crowd box can be matched to any number of
detections. LVIS (Gupta et al., 2019) adds two rules: detections of classes that were not looked for in an image do not
count, nor do unmatched detections of classes that are not exhaustive there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray

RECALL_THRESHOLDS: FloatArray = np.linspace(0.0, 1.0, 101)

#: Detections that are compared with the boxes of their images at a time; bounds the memory.
_CHUNK = 100_000


@dataclass(frozen=True)
class TrueBoxes:
    """Ground-truth boxes in columns.

    Attributes:
        image: [T] int64 index of the image.
        label: [T] int64 index of the class.
        xywh: [T, 4] pixels.
        area: [T] px², that of the mask where the file says it.
        crowd: [T] bool.
    """

    image: IntArray
    label: IntArray
    xywh: FloatArray
    area: FloatArray
    crowd: BoolArray


@dataclass(frozen=True)
class FoundBoxes:
    """Detections in columns.

    Attributes:
        image: [N] int64 index of the image.
        label: [N] int64 index of the class.
        xywh: [N, 4] pixels.
        score: [N] in 0..1.
    """

    image: IntArray
    label: IntArray
    xywh: FloatArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.score)

    def at(self, chosen: IntArray | BoolArray) -> FoundBoxes:
        """The chosen detections, by indices or by a mask."""
        return FoundBoxes(self.image[chosen], self.label[chosen], self.xywh[chosen], self.score[chosen])

    def by_score(self) -> IntArray:
        """[N] indices in order of falling score; equal scores by image, then in their order, as in pycocotools."""
        return np.lexsort((self.image, -self.score))

    def places(self) -> IntArray:
        """[N] rank of each detection among those of its image, 0 for the best; of equal scores, the first is better."""
        order = np.lexsort((-self.score, self.image))
        image, places = self.image[order], np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order)) - np.searchsorted(image, image, side="left")
        return places


@dataclass(frozen=True)
class Federation:
    """What LVIS says about each image besides its boxes.

    Attributes:
        negative: for each image, the indices of classes that were looked for and are absent.
        not_exhaustive: for each image, the indices of classes of which some objects may have no box.
    """

    negative: Sequence[frozenset[int]]
    not_exhaustive: Sequence[frozenset[int]]


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in order of falling score, matched at IoU 0.5.

    Attributes:
        true: [D] bool, whether a detection is matched to a box that counts.
        counted: [D] bool, whether a detection counts: those on crowd boxes, and others that are ignored, do not.
        image_index: [D] int64 index of the image.
        positives: [I] int64 number of ground-truth boxes that count in each image.
    """

    true: BoolArray
    counted: BoolArray
    image_index: IntArray
    positives: IntArray

    def ap50(self, counts: IntArray) -> FloatArray:
        """AP50 for image multiplicities `counts` [R, I]: [R] in 0..1, NaN where no image with a box was drawn.

        A detection of an image that was drawn twice has the weight 2. That equals listing it twice, since the envelope
        of the precision does not depend on the points between equal scores.
        """
        positives = counts @ self.positives
        average: FloatArray = np.full(len(counts), np.nan)
        for row in np.flatnonzero(positives):
            average[row] = self.curve(counts[row], float(positives[row])).mean()
        return average

    def curve(self, weights: IntArray, positives: float) -> FloatArray:
        """Precision [101] in 0..1 at recalls 0, 0.01, ..., 1.

        Args:
            weights: [I] weights of the images.
            positives: weighted number of boxes that count, above 0.
        """
        hits = self.true & self.counted
        # Detections after the last hit change no precision at a recall that is reached.
        end = int(np.flatnonzero(hits)[-1]) + 1 if hits.any() else 0
        weight = weights[self.image_index[:end]]
        true = np.cumsum(weight * hits[:end], dtype=np.float64)
        false = np.cumsum(weight * (~self.true & self.counted)[:end], dtype=np.float64)
        precision = true / (true + false + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(true / positives, RECALL_THRESHOLDS, side="left")
        # The appended entry is the precision 0 of recalls that are never reached.
        return np.append(envelope, 0.0)[reached]


@dataclass(frozen=True)
class Matched:
    """Detections and ground-truth boxes, matched at one IoU.

    Attributes:
        truth: T ground-truth boxes.
        found: N detections.
        partner: [N] int64 index of the box that a detection is matched to, -1 for none.
        ignored: [N] bool, whether a detection is neither right nor wrong.
        images: number of images.
        classes: number of classes.
    """

    truth: TrueBoxes
    found: FoundBoxes
    partner: IntArray
    ignored: BoolArray
    images: int
    classes: int

    @property
    def true(self) -> BoolArray:
        """[N] bool: whether a detection is matched to a box that counts."""
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
    """The matches of every class.

    Args:
        label: [N] class indices of detections in order of falling score, as for the next three.
        true: [N] as in `ClassMatches`.
        counted: [N] as in `ClassMatches`.
        image: [N] image indices.
        truth: all ground-truth boxes.
        images: number of images.
        classes: number of classes.
        missing: [T] bool, ground-truth boxes that shall not count; None for none.
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
    """COCO annotations in columns.

    Args:
        annotations: those of other images and categories are left out.
        places: image id -> index of the image.
        labels: category id -> index of the class.
    """
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
    """COCO results in columns, with `places` and `labels` as for `true_boxes`; other categories are left out."""
    chosen = [r for r in results if r["category_id"] in labels]
    return FoundBoxes(
        image=np.array([places[r["image_id"]] for r in chosen], dtype=np.int64),
        label=np.array([labels[r["category_id"]] for r in chosen], dtype=np.int64),
        xywh=np.array([r["bbox"] for r in chosen], dtype=np.float64).reshape(-1, 4),
        score=np.array([r["score"] for r in chosen], dtype=np.float64),
    )


def keep_best(found: FoundBoxes, limit: int) -> FoundBoxes:
    """The `limit` detections of each image with the highest scores over all classes, in their order.

    pycocotools limits the detections of an image *and class*, which is more generous than the rule of the benchmark.
    """
    return found.at(found.places() < limit)


def keep_known(found: FoundBoxes, truth: TrueBoxes, federation: Federation, classes: int) -> FoundBoxes:
    """The detections of classes that were looked for in their image: those with boxes, and the negative ones."""
    looked_for = [image * classes + label for image, labels in enumerate(federation.negative) for label in labels]
    keys = np.union1d(truth.image * classes + truth.label, np.array(looked_for, dtype=np.int64))
    return found.at(np.isin(found.image * classes + found.label, keys))


def overlaps(found: FoundBoxes, truth: TrueBoxes, *, at_least: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of a detection and a ground-truth box of one image, of any classes, with an IoU of `at_least` (above 0).

    Returns:
        Index of the detection, index of the box, and IoU, each [P]. For a crowd box, the share of the detection inside
        it takes the place of the IoU.
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
    """IoU of row i with row i, in the order of operations of pycocotools, so that equal IoUs are exactly equal."""
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
    """Match detections to ground-truth boxes at an IoU between 0 and 1."""
    detections, boxes, shares = overlaps(found, truth, at_least=iou)
    same = found.label[detections] == truth.label[boxes]
    detections, boxes, shares = detections[same], boxes[same], shares[same]
    rank = np.empty(len(found), dtype=np.int64)
    rank[found.by_score()] = np.arange(len(found))
    # Of equal IoUs the later box wins, as in pycocotools; crowd boxes come last.
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
