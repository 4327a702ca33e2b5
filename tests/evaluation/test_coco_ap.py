import contextlib
import copy
import io
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cora
from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import predict_dataset
from cora.evaluation.truth import only_images, read_truth
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, perfect_results


def _pycocotools(truth, results):
    """Precision and recall from pycocotools' own reading of the same data, at 100 detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][..., 2], evaluator.eval["recall"][..., 2]


def _assert_equal(scores, precision, recall):
    """Every number of every class; -1 there is None here."""
    for k, score in enumerate(scores):
        expected = {
            "ap50": precision[0, :, k, 0],
            "ap75": precision[5, :, k, 0],
            "ap": precision[:, :, k, 0],
            "ar": recall[:, k, 0],
        }
        for area, size in enumerate(("small", "medium", "large"), start=1):
            expected |= {f"ap_{size}": precision[:, :, k, area], f"ar_{size}": recall[:, k, area]}
        for name, values in expected.items():
            found = getattr(score, name)
            if values.mean() == -1:
                assert found is None, name
            else:
                assert found == pytest.approx(values.mean(), abs=1e-9), name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_pycocotools(seed):
    truth = ground_truth(seed=seed, images=8)
    results = noisy_results(truth, seed=seed)
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    once = np.ones((1, evaluation.images), dtype=np.int64)
    precision, recall = _pycocotools(truth, results)
    _assert_equal(evaluation.scores, precision, recall)
    for k, (score, match) in enumerate(zip(evaluation.scores, evaluation.matches, strict=True)):
        if score.boxes:
            assert match.ap50(once)[0] == pytest.approx(precision[0, :, k, 0].mean(), abs=1e-9)
        else:
            assert np.isnan(match.ap50(once)).all()


@pytest.mark.needs_shared
def test_numbers_equal_pycocotools_on_the_kit(shared):
    """Its own boxes and areas, crowds, empty images; detections are its boxes moved, and false alarms."""
    path = shared / "kit/coco_ovd_mini/val.json"
    truth = json.loads(path.read_text(encoding="utf-8"))
    crowded = {a["image_id"] for a in truth["annotations"] if a["iscrowd"]}
    chosen = crowded | {image["id"] for image in truth["images"][:25]}
    truth = only_images(truth, chosen)
    assert crowded
    categories = [category["id"] for category in truth["categories"]]
    results = [r for r in noisy_results(truth, seed=1, extra=20, categories=categories) if r["score"] > 0.2]
    without = {image["id"] for image in truth["images"][:5]}
    results = [r for r in results if r["image_id"] not in without]
    read = only_images(read_truth(path), chosen)
    classes = {category["name"]: category["id"] for category in read["categories"]}
    place_of = {category["source_id"]: category["id"] for category in read["categories"]}
    renumbered = [{**r, "category_id": place_of[r["category_id"]]} for r in results]
    ours = {s.name: s for s in evaluate_boxes(read, renumbered, classes=classes).scores}
    by_id = sorted(truth["categories"], key=lambda category: category["id"])
    _assert_equal([ours[category["name"]] for category in by_id], *_pycocotools(truth, results))


@pytest.mark.needs_shared
@pytest.mark.slow
def test_numbers_equal_pycocotools_on_predictions_of_nano(shared):
    """Images with crowds and without a box among them."""
    kit = shared / "kit/coco_ovd_mini"
    truth = json.loads((kit / "val.json").read_text(encoding="utf-8"))
    crowded = [a["image_id"] for a in truth["annotations"] if a["iscrowd"]][:3]
    chosen = {*crowded, *(image["id"] for image in truth["images"][:3])}
    dataset = CocoDataset(annotations=kit / "val.json", images=kit / "val")
    indices = [index for index, record in enumerate(dataset.records) if record.image_id in chosen]
    results = predict_dataset(cora.load("nano"), dataset, dataset.class_names, indices=indices).results
    emptied = {**truth, "annotations": [a for a in truth["annotations"] if a["image_id"] != min(chosen - {*crowded})]}
    truth = only_images(emptied, chosen)
    source = {place: dataset.category_ids[name] for place, name in enumerate(dataset.class_names, start=1)}
    theirs = [{**r, "category_id": source[r["category_id"]]} for r in results]
    assert len(theirs) > 100
    names = sorted(dataset.category_ids, key=dataset.category_ids.__getitem__)
    ours = evaluate_boxes(truth, theirs, classes={name: dataset.category_ids[name] for name in names})
    _assert_equal(ours.scores, *_pycocotools(truth, theirs))


def test_equal_scores_and_equal_boxes_are_decided_as_pycocotools_does():
    truth = ground_truth(seed=9, images=6)
    doubled = {**truth, "annotations": [dict(a) for a in truth["annotations"] for _ in range(2)]}
    for number, annotation in enumerate(doubled["annotations"], start=1):
        annotation["id"] = number
    results = [{**r, "score": round(r["score"], 1)} for r in noisy_results(truth, seed=9)] * 2
    evaluation = evaluate_boxes(doubled, results, classes=CLASSES)
    precision, recall = _pycocotools(doubled, results)
    _assert_equal(evaluation.scores, precision, recall)
    once = np.ones((1, evaluation.images), dtype=np.int64)
    for k, match in enumerate(evaluation.matches):
        assert match.ap50(once)[0] == pytest.approx(precision[0, :, k, 0].mean(), abs=1e-9)


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
    truth = {"images": [{"id": 1}], "annotations": []}
    results = [{"image_id": 1, "category_id": 1 + n % 3, "bbox": [0, 0, 1, 1], "score": n / 500} for n in range(250)]
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    assert (evaluation.detections, evaluation.dropped_detections) == (100, 150)
    assert evaluation.matched.found.score.min() == pytest.approx(150 / 500)
    assert evaluate_boxes(truth, results, classes=CLASSES, max_detections=300).dropped_detections == 0


def test_results_of_other_images_are_refused():
    truth = ground_truth()
    stranger = {"image_id": 999, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    with pytest.raises(DataError, match=r"12 annotated images, got 1 other image id \(first: 999\)"):
        evaluate_boxes(truth, [stranger], classes=CLASSES)
