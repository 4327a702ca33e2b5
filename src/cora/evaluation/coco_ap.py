"""COCO box AP: matched once by pycocotools; AP50 of any resample of the images from those matches.

The metric is COCO's (Lin et al., 2014): 101 recall thresholds, greedy matching in order of score, crowd boxes
ignored.
`AP` is the mean over IoU 0.50:0.05:0.95, `AP50` is at IoU 0.5, `AR` the mean recall over the same IoUs.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cora.errors import DataError, MissingExtraError
from cora.evaluation.bootstrap import BoolArray, FloatArray, IntArray

MAX_DETECTIONS = 100
RECALL_THRESHOLDS: FloatArray = np.linspace(0.0, 1.0, 101)


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
        weights = counts[:, self.image_index]
        true = np.cumsum(weights * (self.true & self.counted), axis=1, dtype=np.float64)
        false = np.cumsum(weights * (~self.true & self.counted), axis=1, dtype=np.float64)
        precision = true / (true + false + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row in np.flatnonzero(positives):
            reached = np.searchsorted(true[row] / positives[row], RECALL_THRESHOLDS, side="left")
            # Recall thresholds that are never reached have precision 0: the appended entry.
            average[row] = np.append(envelope[row], 0.0)[reached].mean()
        return average


@dataclass(frozen=True)
class ClassScores:
    """The numbers of one class, each in 0..1, None where the ground truth has no box of it."""

    name: str
    ap50: float | None
    ap: float | None
    ar: float | None
    boxes: int

    def as_dict(self) -> dict[str, Any]:
        """The fields under their names, for JSON."""
        return {"name": self.name, "ap50": self.ap50, "ap": self.ap, "ar": self.ar, "boxes": self.boxes}


@dataclass(frozen=True)
class BoxEvaluation:
    """Scores and matches of every class, in the order the classes were given; `images` is I."""

    scores: tuple[ClassScores, ...]
    matches: tuple[ClassMatches, ...]
    images: int
    detections: int
    dropped_detections: int


def keep_best(
    results: Iterable[Mapping[str, Any]], *, limit: int = MAX_DETECTIONS
) -> tuple[list[Mapping[str, Any]], int]:
    """The `limit` best-scored results of each image over all classes, and how many were dropped.

    pycocotools limits the detections per image *and class*, which is more generous than the benchmark's rule.
    """
    per_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        per_image[int(result["image_id"])].append(result)
    kept: list[Mapping[str, Any]] = []
    dropped = 0
    for image_id in sorted(per_image):
        ranked = sorted(per_image[image_id], key=lambda result: -float(result["score"]))
        kept += ranked[:limit]
        dropped += max(0, len(ranked) - limit)
    return kept, dropped


def evaluate_boxes(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    classes: Mapping[str, int],
    max_detections: int = MAX_DETECTIONS,
) -> BoxEvaluation:
    """Match COCO results to COCO annotations.

    ground_truth: COCO dictionary (`images`, `annotations` with `bbox` xywh in pixels); results: COCO results
    style; classes: class name -> category id, the classes to score (others, in truth and results, are
    ignored).
    Raises: DataError for results of images that the ground truth does not hold; MissingExtraError without
    pycocotools.
    """
    image_ids = sorted(int(image["id"]) for image in ground_truth["images"])
    known = set(image_ids)
    strangers = {int(result["image_id"]) for result in results} - known
    if strangers:
        raise DataError(
            f"expected results of the {len(known)} annotated images, got {len(strangers)} other image ids "
            f"(first: {min(strangers)}); evaluate with the annotation file that the results were made for"
        )
    wanted = set(classes.values())
    kept, dropped = keep_best((r for r in results if int(r["category_id"]) in wanted), limit=max_detections)
    evaluator = _run_pycocotools(ground_truth, kept, image_ids, sorted(wanted), max_detections)
    per_category = _by_category(evaluator, len(image_ids))
    scores, matches = [], []
    for name, category_id in classes.items():
        row = list(evaluator.params.catIds).index(category_id)
        precision = evaluator.eval["precision"][:, :, row, 0, 0]
        recall = evaluator.eval["recall"][:, row, 0, 0]
        match = per_category[row]
        boxes = int(match.positives.sum())
        scores.append(
            ClassScores(
                name=name,
                ap50=float(precision[0].mean()) if boxes else None,
                ap=float(precision.mean()) if boxes else None,
                ar=float(recall.mean()) if boxes else None,
                boxes=boxes,
            )
        )
        matches.append(match)
    return BoxEvaluation(tuple(scores), tuple(matches), len(image_ids), len(kept), dropped)


def _run_pycocotools(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: list[int],
    category_ids: list[int],
    max_detections: int,
) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("COCO average precision", extra="evaluate") from error

    annotations = [
        {
            "id": number,
            "image_id": int(a["image_id"]),
            "category_id": int(a["category_id"]),
            "bbox": list(a["bbox"]),
            "area": float(a.get("area", a["bbox"][2] * a["bbox"][3])),
            "iscrowd": int(a.get("iscrowd", 0)),
        }
        for number, a in enumerate(ground_truth["annotations"], start=1)
    ]
    detections = [
        {
            "id": number,
            "image_id": int(r["image_id"]),
            "category_id": int(r["category_id"]),
            "bbox": list(r["bbox"]),
            "score": float(r["score"]),
            "area": float(r["bbox"][2] * r["bbox"][3]),
            "iscrowd": 0,
        }
        for number, r in enumerate(results, start=1)
    ]
    frame = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": c} for c in category_ids],
    }
    # Ids start at 1: pycocotools writes the id of the matched box and reads 0 as "no match".
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {**frame, "annotations": annotations}
        found.dataset = {**frame, "annotations": detections}
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.imgIds = image_ids
        evaluator.params.catIds = category_ids
        evaluator.params.areaRng = [[0.0, 1e10]]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.params.maxDets = [max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _by_category(evaluator: Any, images: int) -> list[ClassMatches]:
    """Read pycocotools' per-image matches (categories outermost, one area range) at its first IoU, 0.5."""
    gathered = []
    for row in range(len(evaluator.params.catIds)):
        cells = evaluator.evalImgs[row * images : (row + 1) * images]
        positives = np.zeros(images, dtype=np.int64)
        scores, true, counted, image_index = [np.empty(0)], [np.empty(0)], [np.empty(0)], [np.empty(0)]
        for index, cell in enumerate(cells):
            if cell is None:  # neither a box nor a detection of this class in this image
                continue
            positives[index] = int(np.sum(np.asarray(cell["gtIgnore"]) == 0))
            scores.append(np.asarray(cell["dtScores"], dtype=np.float64))
            true.append(np.asarray(cell["dtMatches"])[0] > 0)
            counted.append(~np.asarray(cell["dtIgnore"])[0].astype(bool))
            image_index.append(np.full(len(cell["dtScores"]), index))
        order = np.argsort(-np.concatenate(scores), kind="mergesort")  # stable, as pycocotools sorts
        gathered.append(
            ClassMatches(
                true=np.concatenate(true)[order].astype(bool),
                counted=np.concatenate(counted)[order].astype(bool),
                image_index=np.concatenate(image_index)[order].astype(np.int64),
                positives=positives,
            )
        )
    return gathered
