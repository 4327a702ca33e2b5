"""The threshold of the greatest F1: no other is better, and where nothing is right it says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cora.data.read import read_dataset
from cora.errors import DataError
from cora.evaluation import held_out
from cora.evaluation.best_threshold import HIGHEST, LOWEST, BestThreshold, best_of_results, best_threshold
from cora.evaluation.predict import Predictions
from tests.detector.conftest import tiny_detector
from tests.evaluation.coco_data import ground_truth, noisy_results, write_folder

Detection = tuple[float, bool]
# Coarse and fine scores, so that equal ones and close ones both come.
score = st.one_of(st.integers(0, 20).map(lambda n: n / 20), st.floats(0, 1))
detections = st.lists(st.tuples(score, st.booleans()), max_size=40)


def best(found: list[Detection], positives: int) -> BestThreshold | None:
    scores = np.array([one for one, _ in found], dtype=np.float64)
    return best_threshold(scores, np.array([right for _, right in found], dtype=bool), positives)


def f1(found: list[Detection], positives: int, threshold: float) -> float:
    above = [right for one, right in found if one > threshold]
    return 2 * sum(above) / max(1, len(above) + positives)


@given(detections, st.integers(0, 10), st.lists(st.floats(LOWEST, HIGHEST), max_size=5))
def test_no_other_threshold_is_better(found: list[Detection], missed: int, others: list[float]) -> None:
    positives = missed + sum(right for _, right in found)
    answer = best(found, positives)
    others += [LOWEST, HIGHEST, *(one for one, _ in found if LOWEST <= one <= HIGHEST)]
    reached = [f1(found, positives, other) for other in others]
    if answer is None:
        assert max(reached) == 0
        return
    assert LOWEST <= answer.threshold <= HIGHEST
    assert answer.f1 == pytest.approx(f1(found, positives, answer.threshold))
    assert max(reached) <= answer.f1 + 1e-12
    above = [right for one, right in found if one > answer.threshold]
    assert answer.precision == pytest.approx(sum(above) / len(above))
    assert answer.recall == pytest.approx(sum(above) / positives)
    assert answer.f1 == pytest.approx(2 * answer.precision * answer.recall / (answer.precision + answer.recall))


@given(detections, st.integers(0, 10), st.randoms())
def test_of_equally_good_ones_the_highest_whatever_the_order(found: list[Detection], missed: int, random) -> None:
    positives = missed + sum(right for _, right in found)
    answer = best(found, positives)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert best(shuffled, positives) == answer
    if answer is None:
        return
    # Whatever lies beyond the next score loses something.
    for other in {one for one, _ in found if answer.threshold < one <= HIGHEST}:
        assert f1(found, positives, other) < answer.f1


@pytest.mark.parametrize("found", [[], [(0.9, False), (0.3, False)], [(0.01, True)]])
def test_where_nothing_is_right_none_is_best(found: list[Detection]) -> None:
    assert best(found, 3) is None
    assert best([], 0) is None


def test_the_number_is_short_and_in_the_middle() -> None:
    answer = best([(0.812345, True), (0.421, False), (0.4, True)], 2)
    assert answer is not None
    assert (answer.threshold, answer.f1) == (0.23, 0.8)
    strict = best([(0.812345, True), (0.421, False)], 1)
    assert strict == BestThreshold(threshold=0.62, precision=1.0, recall=1.0, f1=1.0)


def test_it_stays_within_its_bounds() -> None:
    low = best([(0.04, True), (0.06, True)], 2)
    assert low is not None
    assert LOWEST <= low.threshold < 0.06
    assert low.recall == 0.5
    high = best([(0.99, True), (0.95, False)], 1)
    assert high is not None
    assert high.threshold <= HIGHEST
    assert high.precision == 0.5


def test_coco_results_are_matched_and_crowds_do_not_count() -> None:
    def box(number: int, category: int, crowd: int = 0) -> dict[str, object]:
        place = {"bbox": [40 * number, 0, 30, 30], "area": 900, "iscrowd": crowd}
        return {"id": number + 1, "image_id": 7, "category_id": category, **place}

    truth = {"images": [{"id": 7}], "annotations": [box(0, 1), box(1, 2), box(2, 1, 1)], "categories": []}
    classes = {"cat": 1, "dog": 2}
    results = [
        {"image_id": 7, "category_id": category, "bbox": [40 * place, 0, 30, 30], "score": value}
        for place, category, value in ((0, 1, 0.8), (1, 1, 0.6), (1, 2, 0.5), (2, 1, 0.9))
    ]
    answer = best_of_results(truth, results, classes=classes)
    assert answer is not None
    assert (answer.precision, answer.recall) == (pytest.approx(2 / 3), 1.0)
    assert LOWEST <= answer.threshold < 0.5
    assert best_of_results(truth, [], classes=classes) is None
    with pytest.raises(DataError, match=r"got 1 other image id \(first: 8\)"):
        best_of_results(truth, [{**results[0], "image_id": 8}], classes=classes)


@pytest.mark.parametrize(
    ("config", "passes"),
    [({}, 1), ({"nms_iou": 0.6}, 2), ({"max_detections": 50}, 2), ({"exact_boxes": 5}, 2)],
)
def test_what_was_evaluated_is_not_detected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, float], passes: int
) -> None:
    truth = ground_truth(seed=3, images=6)
    images, annotations = write_folder(tmp_path, truth)
    dataset = read_dataset(images=images, annotations=annotations)
    results = noisy_results(truth, seed=3)
    calls: list[float] = []

    def predict(*arguments: object, score: float = 0.001, **options: object) -> Predictions:
        calls.append(score)
        found = [one for one in results if one["score"] > score]
        return Predictions(results=found, images=len(dataset), seconds=0.0)

    monkeypatch.setattr(held_out, "predict_dataset", predict)
    detector = tiny_detector(tmp_path / "cache")
    own = replace(detector.config.postprocess, **{"nms_iou": 0.5, "max_detections": 100, "exact_boxes": 0, **config})
    detector.config = replace(detector.config, postprocess=own)
    judge = held_out.HeldOut(dataset=dataset)
    evaluation = judge.evaluate(detector)
    once = judge.best_threshold(detector, evaluation=evaluation)
    assert calls == [0.001, LOWEST][:passes]
    assert once is not None
    assert once == judge.best_threshold(detector)
