"""Options: one signature, every value checked, other tools' words understood."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cora.errors import CoraError, ImageError, VocabularyError
from cora.predictor import (
    OptionError,
    PredictOptions,
    Predictor,
    PredictSettings,
    Tiles,
    UnknownOptionError,
    VocabularyOptions,
    VocabularySettings,
    load,
)

IMAGE = Image.new("RGB", (100, 80), "red")


def options_of(function: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {name: one for name, one in found.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}


def test_options_stand_once() -> None:
    predict, vocabulary = options_of(Predictor.predict), options_of(Predictor.vocabulary)
    beside = {one.name: one.default for one in fields(VocabularySettings)}
    asked = {one.name: one.default for one in fields(PredictSettings)}
    assert {name: one.default for name, one in predict.items()} == asked | beside
    assert {name: one.default for name, one in vocabulary.items()} == beside
    assert set(VocabularyOptions.__annotations__) == set(beside)
    assert set(PredictOptions.__annotations__) == {*asked, *beside}


def test_help_says_what_each_option_means(predictor: Predictor) -> None:
    shown = inspect.getdoc(predictor.predict) or ""
    for name in options_of(predictor.predict):
        assert f"    {name}: " in shown
        assert name in str(inspect.signature(predictor.predict))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({"conf": 0.5}, "'score'"),
        ({"threshold": 0.5}, "'score'"),
        ({"box_threshold": 0.5}, "'score'"),
        ({"scores": 0.5}, "'score'"),
        ({"Score": 0.5}, "'score'"),
        ({"iou": 0.5}, "'nms_iou'"),
        ({"max_det": 5}, "'max_detections'"),
        ({"max_detection": 5}, "'max_detections'"),
        ({"agnostic_nms": True}, "'class_agnostic'"),
        ({"imgsz": 640}, "'tiles'"),
        ({"text_prompt": "cup"}, "'classes'"),
        ({"distractor": ["wall"]}, "'distractors'"),
        ({"device": "cuda"}, "cora.load(device=...)"),
        ({"half": True}, "'precision'"),
        ({"minimum_score": 0.5}, "'score'"),
        ({"conf_threshold": 0.5}, "'score'"),
        ({"nms_iou_thresh": 0.5}, "'nms_iou'"),
        ({"nonsense": 1}, "leave it out"),
    ],
)
def test_an_unknown_option_names_the_one_meant(predictor: Predictor, wrong: dict[str, Any], meant: str) -> None:
    with pytest.raises(TypeError) as error:
        predictor.predict(IMAGE, ["cup"], **wrong)
    assert isinstance(error.value, UnknownOptionError | CoraError)
    assert repr(next(iter(wrong))) in str(error.value)
    assert meant in str(error.value).partition("; ")[2]
    assert "\n" not in str(error.value)


def test_vocabulary_and_load_name_the_option_meant_too(predictor: Predictor) -> None:
    with pytest.raises(UnknownOptionError, match=r"vocabulary: .* got 'negatives'; use 'distractors'"):
        predictor.vocabulary(["cup"], negatives=["wall"])  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match=r"load: .* got 'devices'; use 'device'"):
        load("nano", devices="cpu")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": float("nan")}, "score: expected a number in 0..1, got nan"),
        ({"score": -1}, "score: expected a number in 0..1, got -1"),
        ({"score": 30}, "score: expected a number in 0..1, got 30"),
        ({"score": "0.1"}, "score: expected a number in 0..1, got '0.1'"),
        ({"score": True}, "score: expected a number in 0..1, got True"),
        ({"score": [0.1]}, r"score: expected a number in 0..1, got list \[0.1\]"),
        ({"nms_iou": 2.0}, "nms_iou: expected a number in 0..1, got 2"),
        ({"nms_iou": float("inf")}, "nms_iou: expected a number in 0..1, got inf"),
        ({"max_detections": 0}, "max_detections: expected at least 1, got 0"),
        ({"max_detections": -1}, "max_detections: expected at least 1, got -1"),
        ({"max_detections": 2.5}, "max_detections: expected a whole number of at least 1, got 2.5"),
        ({"max_detections": True}, "max_detections: expected a whole number"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": None}, "batch_size: expected a whole number"),
        ({"tiles": (2, 2)}, r"tiles: expected cora.Tiles, .* got tuple \(2, 2\)"),
        ({"tiles": "2x2"}, "tiles: expected cora.Tiles, .* got '2x2'"),
        ({"class_agnostic": "yes"}, "class_agnostic: expected True or False, got 'yes'"),
        ({"class_agnostic": 1}, "class_agnostic: expected True or False, got 1"),
        ({"score_all_boxes": None}, "score_all_boxes: expected True or False, got None"),
        ({"precision": "int4"}, "precision: expected one of auto, float32, bfloat16, float16, got 'int4'"),
        ({"exemplars": "cup"}, "exemplars: expected names with values"),
        ({"exemplars": {"my": (IMAGE, (10, 10, 50, 50))}}, "'my': expected a list of images, got an image with its"),
        ({"exemplars": {3: [IMAGE]}}, "names of exemplars: expected a text in each place, got 3 at place 1"),
        ({"class_weights": ["cup"]}, "class_weights: expected names with values"),
        ({"class_weights": {"cup": "2"}}, "class_weights: expected a number for 'cup', got '2'"),
        ({"class_weights": {"cup": float("nan")}}, "class weights: expected positive numbers, got nan"),
        ({"class_weights": {"cup": 1e300}}, "class weights: expected positive numbers, got 1e.300"),
        ({"distractors": "dog"}, r"distractors: .* got the text 'dog'; put it in a list: \['dog'\]"),
        ({"distractors": 3}, "distractors: expected a list of names"),
        ({"distractors": ["dog", None]}, "distractors: expected a text in each place, got None at place 2"),
        ({"descriptions": "dog"}, "descriptions: expected names with lists of sentences"),
        ({"descriptions": {"cup": "a cup"}}, "expected a list of sentences"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(predictor: Predictor, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CoraError, match=message) as error:
        predictor.predict(IMAGE, ["cup"], **wrong)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cup", r"class names: .* got the text 'cup'; put it in a list: \['cup'\]"),
        ("cat . cup .", r"put it in a list: \['cat', 'cup'\]"),
        ("cat; cup", r"put it in a list: \['cat', 'cup'\]"),
        (b"cup", r"put it in a list: \['cup'\]"),
        (3, "class names: expected a list of names, .* got 3"),
        ([None], "class names: expected a text in each place, got None at place 1"),
        ([["cup"]], r"got list \['cup'\] at place 1"),
        (["cup", b"cat"], "got b'cat' at place 2"),
        ([float("nan")], "got nan at place 1"),
        (
            ["cat . cup ."],
            r"expected one name in each place, got several in one, .*; write \['cat', 'cup'\]",
        ),
        (["cat; cup"], r"write \['cat', 'cup'\]"),
        (["cat | cup"], r"write \['cat', 'cup'\]"),
        (["cat\ncup"], r"write \['cat', 'cup'\]"),
        (["cat,cup"], r"write \['cat', 'cup'\]"),
        (["cat, cup,"], r"write \['cat', 'cup'\]"),
        (["cat.cup."], r"write \['cat', 'cup'\]"),
        (["['cat', 'cup']"], r"write \['cat', 'cup'\]"),
        (["cat\tcup"], r"write \['cat', 'cup'\]"),
        ([], "expected at least one, got an empty list; leave it out for the built-in vocabulary"),
    ],
)
def test_names_of_other_types_are_refused_in_one_line(predictor: Predictor, classes: Any, message: str) -> None:
    for call in (lambda: predictor.predict(IMAGE, classes), lambda: predictor.vocabulary(classes)):
        with pytest.raises(VocabularyError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_lists_of_any_kind_are_lists(predictor: Predictor) -> None:
    for names in (("cat", "cup"), np.array(["cat", "cup"]).tolist(), iter(["cat", "cup"]), {"cat": 0, "cup": 1}.keys()):
        assert predictor.vocabulary(names).names == ("cat", "cup")  # type: ignore[arg-type]
    predictor.predict(IMAGE, ["cup"], score=np.float32(0.5), max_detections=np.int64(3))  # type: ignore[call-overload]


def test_a_mapping_is_no_list_of_images(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="or a uint8 array or tensor, got dict; convert it first"):
        predictor.predict({"a": IMAGE}, ["cup"])


def test_settings_are_frozen_and_keep_what_was_given() -> None:
    settings = PredictSettings(score=0.25, tiles=Tiles(count=(1, 2)))
    assert (settings.score, settings.batch_size) == (0.25, 1)
    with pytest.raises(AttributeError):
        settings.score = 0.5  # type: ignore[misc]
    assert issubclass(OptionError, ValueError)


@pytest.mark.parametrize(
    "names", [["tench, Tinca tinca"], ["St. Bernard"], ["a; b", "c | d"], ["10,000 yen"], ["cat,dog,", "cup"]]
)
def test_names_with_dividers_that_are_meant_stay(predictor: Predictor, names: list[str]) -> None:
    assert predictor.vocabulary(names).names == tuple(names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": (0, 1)}, {"count": "2x2"}, {"count": 2}, {"count": (2.5, 2)}, {"count": (True, 2)}, {"size_px": -1},
        {"size_px": "512"}, {"size_px": 512, "count": (2, 2)}, {}, {"size_px": 512, "overlap": 2},
        {"size_px": 512, "overlap": "0.2"}, {"size_px": 512, "iou": float("nan")}, {"size_px": 512, "merge": "mean"},
    ],
)  # fmt: skip
def test_wrong_tiles_are_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="tiles: expected") as error:
        Tiles(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [3, None, b"nano", ["nano"]])
def test_load_wants_a_name_or_a_path(wrong: Any) -> None:
    with pytest.raises(OptionError, match="load: expected the name of a model"):
        load(wrong)


@pytest.mark.parametrize(
    "wrong", [{"score_threshold": 5}, {"nms_iou": "a"}, {"max_detections": 0}, {"exact_boxes": -1}, {"precision": "x"}]
)
def test_other_settings_of_the_same_weights_are_checked(predictor: Predictor, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        predictor.with_postprocess(**wrong)
    with pytest.raises(UnknownOptionError, match=r"with_postprocess: expected some of .*, got 'conf'"):
        predictor.with_postprocess(conf=0.5)


def test_truth_values_of_numpy_are_truth_values(predictor: Predictor) -> None:
    assert PredictSettings(class_agnostic=np.bool_(True)).class_agnostic
