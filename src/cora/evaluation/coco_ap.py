"""COCO and LVIS box AP by hotcoco, and the matches at IoU 0.5 for resampling and diagnosis.

The metric is COCO's (Lin et al., 2014): 101 recall thresholds, greedy matching in order of score, crowd boxes ignored.
By the rules of LVIS (Gupta et al., 2019), classes that were not looked for in an image do not count there. `AP` is the
mean over IoU 0.50:0.05:0.95, `AP50` and `AP75` are at one IoU, and `AR` is the mean recall over the same IoUs. Small,
medium and large boxes are divided at areas of 32² and 96² px². Of the evaluators that agree with pycocotools, hotcoco
is the fastest; `benchmarks/evaluation.py` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cora.console import counted
from cora.errors import DataError, needs_extra
from cora.evaluation.bootstrap import FloatArray
from cora.evaluation.matching import (
    ClassMatches,
    Federation,
    Matched,
    found_boxes,
    keep_best,
    keep_known,
    match,
    true_boxes,
)

MAX_DETECTIONS = 100
#: LVIS allows more detections, since an image may have objects of many classes.
MAX_DETECTIONS_LVIS = 300

#: Names of the area ranges, in the order of the evaluator.
AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics of a class, or their means over a group of classes: each in 0..1; None without a box of that size."""

    ap: float | None
    ar: float | None
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar_small: float | None = None
    ar_medium: float | None = None
    ar_large: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields under their names, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ClassScores(Scores):
    """Metrics of one class, and its number of ground-truth boxes that count."""

    name: str
    ap50: float | None
    boxes: int


@dataclass(frozen=True)
class BoxEvaluation:
    """Scores and matches of every class, in the order in which the classes were given.

    Attributes:
        scores: metrics of every class.
        matches: matches of every class at IoU 0.5.
        images: number of images.
        detections: number of detections that count.
        dropped_detections: number of detections beyond the limit of their image.
        unknown_detections: number of detections of classes that were not looked for in their image (LVIS).
        matched: the matches of all classes, in columns.
    """

    scores: tuple[ClassScores, ...]
    matches: tuple[ClassMatches, ...]
    images: int
    detections: int
    dropped_detections: int
    unknown_detections: int
    matched: Matched


def is_federated(ground_truth: Mapping[str, Any]) -> bool:
    """Whether the images say which classes were looked for (LVIS)."""
    return any("neg_category_ids" in image for image in ground_truth["images"])


def detection_limit(ground_truth: Mapping[str, Any]) -> int:
    """Number of detections of an image that count by the rules of the benchmark."""
    return MAX_DETECTIONS_LVIS if is_federated(ground_truth) else MAX_DETECTIONS


def evaluate_boxes(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    classes: Mapping[str, int],
    max_detections: int | None = None,
) -> BoxEvaluation:
    """Match COCO results to COCO annotations and score every class.

    Args:
        ground_truth: COCO dictionary with `images`, and `annotations` with `bbox` (xywh in pixels). The rules of LVIS
            hold if images have `neg_category_ids`.
        results: COCO results.
        classes: class name -> category id of the classes to score; other classes are ignored.
        max_detections: number of detections of an image that count, over all classes, the best first; None for 100, or
            300 by the rules of LVIS.

    Raises:
        DataError: there are results of images that the ground truth lacks.
        MissingExtraError: hotcoco is not installed.
    """
    found = _match(ground_truth, results, classes, max_detections)
    matched = found.matched
    precision, recall = _precision_and_recall(matched, found.federation, found.limit)
    matches = matched.by_class()
    return BoxEvaluation(
        scores=tuple(
            _scores(name, precision[:, :, row], recall[:, row], int(matches[row].positives.sum()))
            for row, name in enumerate(classes)
        ),
        matches=matches,
        images=matched.images,
        detections=len(matched.found),
        dropped_detections=found.dropped,
        unknown_detections=found.unknown,
        matched=matched,
    )


def match_boxes(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, classes: Mapping[str, int]
) -> Matched:
    """The matches of `evaluate_boxes` at IoU 0.5, without the scores and so without hotcoco.

    Raises:
        DataError: there are results of images that the ground truth lacks.
    """
    return _match(ground_truth, results, classes, None).matched


@dataclass(frozen=True)
class _Match:
    """Matches, and what was left out.

    Attributes:
        matched: the matches.
        federation: what LVIS says besides boxes; None for other ground truth.
        limit: number of detections of an image that count.
        dropped: number of detections beyond this limit.
        unknown: number of detections of classes that were not looked for in their image.
    """

    matched: Matched
    federation: Federation | None
    limit: int
    dropped: int
    unknown: int


def _match(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    classes: Mapping[str, int],
    max_detections: int | None,
) -> _Match:
    image_ids = sorted(int(image["id"]) for image in ground_truth["images"])
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    unknown = {int(result["image_id"]) for result in results} - places.keys()
    if unknown:
        raise DataError(
            f"expected results of the {len(places)} annotated images, got "
            f"{counted(len(unknown), 'other image id')} (first: {min(unknown)}); "
            "evaluate with the annotation file that the results were made for"
        )
    limit = detection_limit(ground_truth) if max_detections is None else max_detections
    labels = {category: label for label, category in enumerate(classes.values())}
    truth = true_boxes(ground_truth["annotations"], places, labels)
    found = found_boxes(results, places, labels)
    kept = keep_best(found, limit)
    federation = _federation(ground_truth, places, labels) if is_federated(ground_truth) else None
    known = kept if federation is None else keep_known(kept, truth, federation, len(classes))
    matched = match(known, truth, images=len(places), classes=len(classes), federation=federation)
    return _Match(matched, federation, limit, len(found) - len(kept), len(kept) - len(known))


def _federation(ground_truth: Mapping[str, Any], places: Mapping[int, int], labels: Mapping[int, int]) -> Federation:
    images = sorted(ground_truth["images"], key=lambda image: places[int(image["id"])])
    negative, not_exhaustive = (
        [frozenset(labels[number] for number in image.get(key, ()) if number in labels) for image in images]
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    return Federation(negative, not_exhaustive)


def _scores(name: str, precision: FloatArray, recall: FloatArray, boxes: int) -> ClassScores:
    """Metrics of precision [IoUs, recalls, areas] and recall [IoUs, areas], both -1 where no box has that size."""
    ap = [_known(precision[..., area]) for area in range(len(AREAS))]
    ar = [_known(recall[..., area]) for area in range(len(AREAS))]
    return ClassScores(
        name=name,
        ap50=_known(precision[0, :, 0]),
        ap=ap[0],
        ar=ar[0],
        boxes=boxes,
        ap75=_known(precision[5, :, 0]),
        ap_small=ap[1],
        ap_medium=ap[2],
        ap_large=ap[3],
        ar_small=ar[1],
        ar_medium=ar[2],
        ar_large=ar[3],
    )


def _known(values: FloatArray) -> float | None:
    return None if values.flat[0] < 0 else float(values.mean())


def _precision_and_recall(matched: Matched, federation: Federation | None, limit: int) -> tuple[FloatArray, FloatArray]:
    """[10 IoUs, 101 recalls, classes, 4 areas] and [10 IoUs, classes, 4 areas] in 0..1, -1 without a box.

    The evaluator matches anew, since it needs all IoUs. Its ids count from 1.
    """
    truth, found = matched.truth, matched.found
    with needs_extra("average precision", extra="evaluate"):
        from hotcoco import COCO, COCOeval

    annotations = [
        {"id": number, "image_id": image, "category_id": label, "bbox": bbox, "area": area, "iscrowd": crowd}
        for number, (image, label, bbox, area, crowd) in enumerate(
            zip(
                (truth.image + 1).tolist(),
                (truth.label + 1).tolist(),
                truth.xywh.tolist(),
                truth.area.tolist(),
                truth.crowd.astype(int).tolist(),
                strict=True,
            ),
            start=1,
        )
    ]
    images: list[dict[str, Any]] = [{"id": number, "width": 1, "height": 1} for number in range(1, matched.images + 1)]
    if federation is not None:
        for image, negative, not_exhaustive in zip(images, federation.negative, federation.not_exhaustive, strict=True):
            image["neg_category_ids"] = [label + 1 for label in sorted(negative)]
            image["not_exhaustive_category_ids"] = [label + 1 for label in sorted(not_exhaustive)]
    categories = [{"id": number, "name": str(number), "frequency": "f"} for number in range(1, matched.classes + 1)]
    annotated = COCO({"images": images, "annotations": annotations, "categories": categories})
    columns = (found.image + 1, found.xywh, found.score, found.label + 1)
    detected = annotated.load_res(np.column_stack(columns)) if len(found) else annotated.load_res([])
    evaluator = COCOeval(annotated, detected, "bbox", lvis_style=federation is not None)
    evaluator.params.max_dets = [limit]
    evaluator.evaluate()
    evaluator.accumulate()
    numbers: Any = evaluator.eval
    return np.asarray(numbers["precision"])[..., 0], np.asarray(numbers["recall"])[..., 0]
