import contextlib
import copy
import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.errors import DataError
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import evaluate_boxes, keep_best
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, perfect_results


def _pycocotools_per_class(truth, results):
    """AP50, AP and AR of every class from pycocotools' own reading of the same data."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return [
        (precision[0, :, k, 0, 2].mean(), precision[:, :, k, 0, 2].mean(), recall[:, k, 0, 2].mean())
        for k in range(len(CLASSES))
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_pycocotools(seed):
    truth = ground_truth(seed=seed, images=8)
    results = noisy_results(truth, seed=seed)
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    once = np.ones((1, evaluation.images), dtype=np.int64)
    for score, match, (ap50, ap, ar) in zip(
        evaluation.scores, evaluation.matches, _pycocotools_per_class(truth, results), strict=True
    ):
        if not score.boxes:
            assert ap50 == -1
            assert (score.ap50, score.ap, score.ar) == (None, None, None)
            assert np.isnan(match.ap50(once)).all()
            continue
        assert (score.ap50, score.ap, score.ar) == pytest.approx((ap50, ap, ar), abs=1e-12)
        assert match.ap50(once)[0] == pytest.approx(ap50, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_resample_equals_pycocotools_on_repeated_images(seed):
    truth = ground_truth(seed=seed, images=6)
    results = noisy_results(truth, seed=seed)
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    counts = resample_counts(6, resamples=1, seed=seed)
    ids = [image["id"] for image in truth["images"]]
    drawn = [old for old, times in zip(ids, counts[0], strict=True) for _ in range(times)]
    repeated = {**truth, "images": [], "annotations": []}
    repeated_results = []
    for new, old in enumerate(drawn, start=1):
        repeated["images"].append({"id": new})
        repeated["annotations"] += [{**a, "image_id": new} for a in truth["annotations"] if a["image_id"] == old]
        repeated_results += [{**r, "image_id": new} for r in results if r["image_id"] == old]
    again = evaluate_boxes(repeated, repeated_results, classes=CLASSES)
    for match, score in zip(evaluation.matches, again.scores, strict=True):
        expected = np.nan if score.ap50 is None else score.ap50
        assert match.ap50(counts)[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_perfect_predictions_score_one():
    truth = ground_truth(seed=3)
    for score in evaluate_boxes(truth, perfect_results(truth), classes=CLASSES).scores:
        assert (score.ap50, score.ap, score.ar) == pytest.approx((1.0, 1.0, 1.0))


def test_no_predictions_score_zero():
    for score in evaluate_boxes(ground_truth(seed=3), [], classes=CLASSES).scores:
        assert (score.ap50, score.ap, score.ar) == (0.0, 0.0, 0.0)


def test_order_of_images_and_results_is_irrelevant():
    truth = ground_truth(seed=5)
    results = noisy_results(truth, seed=5)
    shuffled, mixed = copy.deepcopy(truth), list(results)
    random.Random(1).shuffle(shuffled["images"])
    random.Random(2).shuffle(shuffled["annotations"])
    random.Random(3).shuffle(mixed)
    left = evaluate_boxes(truth, results, classes=CLASSES)
    right = evaluate_boxes(shuffled, mixed, classes=CLASSES)
    assert left.scores == right.scores


def test_detections_on_crowds_are_neither_right_nor_wrong():
    box = [10.0, 10.0, 50.0, 50.0]
    away = [120.0, 120.0, 40.0, 40.0]
    truth = {
        "images": [{"id": 1}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 1},
            {"image_id": 1, "category_id": 1, "bbox": away, "iscrowd": 0},
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": away, "score": 0.5},
    ]
    (score,) = evaluate_boxes(truth, results, classes={"cat": 1}).scores
    assert (score.ap50, score.boxes) == (pytest.approx(1.0), 1)


def test_only_the_best_hundred_of_an_image_count():
    results = [{"image_id": 1, "category_id": 1 + n % 3, "bbox": [0, 0, 1, 1], "score": n / 500} for n in range(250)]
    kept, dropped = keep_best(results)
    assert (len(kept), dropped) == (100, 150)
    assert min(r["score"] for r in kept) == pytest.approx(150 / 500)


def test_results_of_other_images_are_refused():
    truth = ground_truth()
    stranger = {"image_id": 999, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    with pytest.raises(DataError, match=r"12 annotated images, got 1 other image ids \(first: 999\)"):
        evaluate_boxes(truth, [stranger], classes=CLASSES)
