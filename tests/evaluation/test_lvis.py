"""LVIS: classes that were not looked for in an image, or not exhaustively, do not count there."""

import copy
import logging
import sys
from types import ModuleType

import numpy as np
import pytest

from cora.evaluation.base_novel import frequency_groups, group_scores, resampled_ap50
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import detection_limit, evaluate_boxes
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results

FREQUENCIES = {"cat": "f", "dog": "c", "bus": "r"}


def federated(seed: int, images: int = 12):
    """Random boxes; of each image some classes without a box are known to be absent, some with one not exhaustive."""
    truth = ground_truth(seed=seed, images=images, crowds=False)
    generator = np.random.default_rng(seed + 1)
    for image in truth["images"]:
        present = sorted({a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]})
        absent = [number for number in CLASSES.values() if number not in present]
        image["neg_category_ids"] = [number for number in absent if generator.random() < 0.5]
        image["not_exhaustive_category_ids"] = [number for number in present if generator.random() < 0.3]
    for category in truth["categories"]:
        category["frequency"] = FREQUENCIES[category["name"]]
        category["image_count"] = 1
    return truth


@pytest.fixture
def lvis(monkeypatch):
    """The reference, which cannot be imported without a drawing library and uses a name that NumPy has dropped."""
    for name in ("cv2", "lvis.vis"):
        module = ModuleType(name)
        module.LVISVis = object
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(np, "float", float, raising=False)
    return pytest.importorskip("lvis")


@pytest.mark.parametrize("seed", range(6))
def test_numbers_equal_the_reference(lvis, seed):
    truth = federated(seed)
    results = noisy_results(truth, seed=seed, extra=20)
    reference = lvis.LVIS.__new__(lvis.LVIS)
    reference.logger = logging.getLogger("lvis")
    reference.dataset = copy.deepcopy(truth)
    reference._create_index()
    evaluator = lvis.LVISEval(reference, lvis.LVISResults(reference, copy.deepcopy(results)), "bbox")
    evaluator.run()
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    assert evaluation.unknown_detections > 0
    scores = group_scores(
        evaluation,
        resampled_ap50(evaluation, resample_counts(12)),
        frequency_groups(FREQUENCIES) | {"all": tuple(CLASSES)},
    )
    found = evaluator.get_results()
    whole = scores["all"]
    expected = {"AP": whole.ap, "AP50": whole.ap50.value, "AP75": whole.ap75, "AR@300": whole.ar}
    expected |= {f"AP{size[0]}": getattr(whole, f"ap_{size}") for size in ("small", "medium", "large")}
    # Its `APm` and `APc` differ from ours by name only: rare, common and frequent are by class.
    expected |= {"APr": scores["rare"].ap, "APc": scores["common"].ap, "APf": scores["frequent"].ap}
    for name, value in expected.items():
        assert found[name] == pytest.approx(-1 if value is None else value, abs=1e-9), name
    once = np.ones((1, 12), dtype=np.int64)
    for match, score in zip(evaluation.matches, evaluation.scores, strict=True):
        assert match.ap50(once)[0] == pytest.approx(score.ap50, abs=1e-9)


def test_what_was_not_looked_for_costs_nothing():
    box, away = [10.0, 10.0, 50.0, 50.0], [120.0, 120.0, 40.0, 40.0]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2500.0}
    results = [
        {"image_id": 1, "category_id": 1, "bbox": away, "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5},
        {"image_id": 2, "category_id": 1, "bbox": away, "score": 0.8},
    ]

    def ap50(**first):
        images = [{"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": [], **first}, {"id": 2}]
        truth = {"images": images, "annotations": [annotation]}
        evaluation = evaluate_boxes(truth, results, classes={"cat": 1})
        assert evaluation.unknown_detections == 1
        return evaluation.scores[0].ap50

    assert ap50() == pytest.approx(0.5)
    assert ap50(not_exhaustive_category_ids=[1]) == pytest.approx(1.0)


def test_an_image_of_lvis_may_hold_more_detections():
    assert detection_limit(federated(0)) == 300
    assert detection_limit(ground_truth()) == 100
