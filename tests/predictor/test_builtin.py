"""Calls without classes: the model's own names, or else the built-in vocabulary."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from cora.boxes import pairwise_iou
from cora.data.builtin_names import builtin_names
from cora.detector import Detector
from cora.errors import VocabularyError
from cora.predictor import Predictor
from cora.regions import Vocabulary
from cora.structures import Detections


@pytest.fixture(autouse=True)
def _short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's tower takes seconds for all names; which they are has tests of its own."""
    names = builtin_names()[:12]
    monkeypatch.setattr("cora.predictor.vocabulary.builtin_names", lambda: names)


def with_thresholds(detector: Detector, usual: float, builtin: float) -> Predictor:
    postprocess = replace(detector.config.postprocess, score_threshold=usual, builtin_threshold=builtin)
    return Predictor(detector.with_parts(config=replace(detector.config, postprocess=postprocess)))


def picture() -> Image.Image:
    pixels = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Image.fromarray(pixels.numpy())


def overlaps(found: Detections) -> float:
    """The greatest IoU of two boxes."""
    return float(pairwise_iou(found.boxes_xyxy_px, found.boxes_xyxy_px).fill_diagonal_(0).max())


def test_without_classes_all_names_are_looked_for_with_a_threshold_of_their_own(detector: Detector) -> None:
    every = Predictor(detector).predict(picture(), score=0.0)
    assert every.class_names == builtin_names()[:12]
    middle = float(every.scores.median())
    predictor = with_thresholds(detector, usual=1.0, builtin=middle)
    assert len(predictor.predict(picture())) > 0
    assert float(predictor.predict(picture()).scores.min()) > middle
    assert float(predictor.predict(picture(), score=0.0).scores.min()) < middle
    assert len(predictor.predict(picture(), list(every.class_names))) == 0  # names of the caller have the usual one
    assert (predictor.score_of(None), predictor.score_of(None, built_in=True)) == (1.0, middle)
    assert predictor.score_of(0.2, built_in=True) == 0.2


def test_one_object_gets_one_name_unless_the_caller_says_otherwise(detector: Detector) -> None:
    predictor = with_thresholds(detector, usual=0.0, builtin=0.0)
    iou = detector.config.postprocess.nms_iou
    assert overlaps(predictor.predict(picture())) <= iou
    assert overlaps(predictor.predict(picture(), predictor.vocabulary())) <= iou
    assert overlaps(predictor.predict(picture(), class_agnostic=False)) > iou
    named = list(predictor.vocabulary().names)
    assert overlaps(predictor.predict(picture(), named)) > iou
    assert overlaps(predictor.predict(picture(), named, class_agnostic=True)) <= iou


def test_the_vocabulary_says_that_it_is_built_in_whatever_is_put_into_it(predictor: Predictor) -> None:
    found = predictor.vocabulary(distractors=["wall"])
    assert found.built_in
    assert found.distractors is not None
    assert found.to("cpu", torch.float64).built_in
    assert predictor.vocabulary(found, class_weights={found.names[0]: 2.0}).built_in
    assert not predictor.vocabulary(found.names).built_in
    assert not Vocabulary(("cup",), torch.ones(1, 4)).built_in


def test_exemplars_without_classes_stay_alone(predictor: Predictor) -> None:
    found = predictor.vocabulary(exemplars={"my logo": [picture()]})
    assert (found.names, found.built_in) == (("my logo",), False)


def test_a_fine_tuned_model_looks_for_its_own_names(detector: Detector) -> None:
    tuned = with_thresholds(detector, usual=0.0, builtin=1.0).detector
    predictor = Predictor(tuned.with_parts(config=replace(tuned.config, class_names=("RBC", "WBC"))))
    assert predictor.own_names == ("RBC", "WBC")
    found = predictor.predict(picture())
    assert found.class_names == ("RBC", "WBC")
    assert len(found) > 0  # above its usual threshold, not that of the built-in vocabulary
    assert not predictor.vocabulary().built_in
    assert predictor.predict(picture(), ["cup"]).class_names == ("cup",)


def test_an_empty_list_is_no_way_to_leave_classes_out(predictor: Predictor) -> None:
    for empty in ([], (), {}.keys()):
        with pytest.raises(VocabularyError, match="got an empty list; leave it out for the built-in vocabulary"):
            predictor.predict(picture(), empty)  # type: ignore[call-overload]
