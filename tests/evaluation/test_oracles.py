"""Detections with true classes at pre-matching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.errors import DataError
from cora.evaluation.coco_ap import BoxEvaluation, evaluate_boxes
from cora.evaluation.oracles import (
    AS_IT_IS,
    BEST_OF_100,
    BEST_OF_300,
    ORACLES,
    TRUE_BOXES,
    TRUE_CLASSES,
    TRUE_PRE_MATCHING,
    predict_oracles,
    predict_with_true_classes,
)
from cora.evaluation.predict import ground_truth as truth_of
from cora.evaluation.predict import predict_dataset
from cora.localizer import LocalizerOutput, Memory
from cora.regions import Vocabulary
from cora.structures import FeatureMap
from tests.detector.conftest import tiny_detector
from tests.evaluation.coco_data import CLASSES, ground_truth, truth_near, write_folder, write_noise

NAMES = tuple(CLASSES)


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    images, annotations = write_folder(tmp_path, ground_truth(images=3, seed=1))
    return CocoDataset(annotations=annotations, images=images)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")


def test_queries_look_for_the_classes_of_the_boxes_under_them(
    detector: Detector, dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    decode = detector.decode

    def recorded(memory: Memory, matched: object) -> LocalizerOutput:
        seen.append(matched.classes)  # type: ignore[attr-defined]
        return decode(memory, matched)  # type: ignore[arg-type]

    monkeypatch.setattr(detector, "decode", recorded)
    predict_with_true_classes(detector, dataset, NAMES)
    # Anchors of a fresh grid lie all over the image, so that every large box has some.
    checked = 0
    for classes, record in zip(seen, dataset.records, strict=True):
        sides = record.boxes_xyxy_px[:, 2:] - record.boxes_xyxy_px[:, :2]
        large = record.classes[sides.amin(dim=1) > 50]
        assert set(large.tolist()) <= set(classes[0].tolist())
        checked += len(large)
    assert checked


def test_where_the_truth_is_what_was_guessed_nothing_changes(
    detector: Detector, dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cora.evaluation.oracles.classes_of_boxes", lambda anchors, targets, otherwise: otherwise)
    oracle = predict_with_true_classes(detector, dataset, NAMES, score=0.0, max_detections=30)
    plain = predict_dataset(detector, dataset, NAMES, score=0.0, max_detections=30)
    assert oracle.images == plain.images == 3
    assert len(oracle.results) == len(plain.results) > 0
    for one, other in zip(oracle.results, plain.results, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_the_detector_comes_back_as_it_was(detector: Detector, dataset: CocoDataset) -> None:
    detector.train()
    found = predict_with_true_classes(detector, dataset, NAMES, indices=[1])
    assert detector.training
    assert found.images == 1
    assert {result["image_id"] for result in found.results} <= {dataset.records[1].image_id}


def test_names_stand_for_the_datasets_classes(detector: Detector, dataset: CocoDataset) -> None:
    with pytest.raises(DataError, match="a name for each of the dataset's 3 classes, got 2"):
        predict_with_true_classes(detector, dataset, NAMES[:2])


@pytest.fixture
def findable(tmp_path: Path, detector: Detector) -> CocoDataset:
    """Images whose objects are near some boxes that the detector finds."""
    images, annotations = write_noise(tmp_path / "noise", images=3)
    found = predict_dataset(detector, CocoDataset(annotations=annotations, images=images), NAMES)
    truth_near(found.results, annotations)
    return CocoDataset(annotations=annotations, images=images)


def test_one_pass_gives_what_the_single_ones_give(detector: Detector, findable: CocoDataset) -> None:
    found = predict_oracles(detector, findable, NAMES)
    assert tuple(found) == ORACLES
    assert found[AS_IT_IS].results == predict_dataset(detector, findable, NAMES).results
    assert found[TRUE_PRE_MATCHING].results == predict_with_true_classes(detector, findable, NAMES).results
    objects = sum(len(record.classes) for record in findable.records)
    assert len(found[BEST_OF_100].results) == len(found[BEST_OF_300].results) == objects > 0


def test_knowing_more_never_finds_less(detector: Detector, findable: CocoDataset) -> None:
    def recall(evaluation: BoxEvaluation) -> float:
        """Share of all objects found at IoU 0.5."""
        return float(evaluation.matched.true.sum() / sum(score.boxes for score in evaluation.scores))

    found = {
        oracle: recall(evaluate_boxes(truth_of(findable), predictions.results, classes=CLASSES, max_detections=1000))
        for oracle, predictions in predict_oracles(detector, findable, NAMES, score=0.0, max_detections=1000).items()
    }
    assert found[AS_IT_IS] > 0
    assert found[TRUE_CLASSES] >= found[AS_IT_IS]
    assert found[BEST_OF_300] >= found[BEST_OF_100]
    assert found[BEST_OF_300] >= found[TRUE_CLASSES]


def test_true_boxes_with_a_right_classifier_are_perfect(
    detector: Detector, findable: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [findable[index][1] for index in range(len(findable))]
    classify = detector.classify

    def right(c3: FeatureMap, boxes: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        for true in targets:
            if torch.equal(boxes[0], true.boxes_cxcywh):
                return torch.nn.functional.one_hot(true.classes, len(NAMES))[None].float()
        return classify(c3, boxes, vocabulary)

    monkeypatch.setattr(detector, "classify", right)
    results = predict_oracles(detector, findable, NAMES)[TRUE_BOXES].results
    scores = evaluate_boxes(truth_of(findable), results, classes=CLASSES).scores
    assert [score.ap for score in scores if score.boxes] == pytest.approx([1.0] * sum(s.boxes > 0 for s in scores))


def test_a_photo_without_objects_has_no_best_box(detector: Detector, tmp_path: Path) -> None:
    images, annotations = write_noise(tmp_path / "noise", images=1)
    found = predict_oracles(detector, CocoDataset(annotations=annotations, images=images), NAMES)
    assert found[BEST_OF_100].results == found[TRUE_BOXES].results == []
    assert found[TRUE_CLASSES].results == found[AS_IT_IS].results != []
