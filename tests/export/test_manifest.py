import copy
import json

import pytest
import torch

from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import ModelError
from cora.export import ExportSettings, Manifest
from cora.export.manifest import MAX_TEXT
from cora.predictor import Predictor
from tests.export.conftest import NAMES, manifest_of


def test_comes_back_from_its_text(toy: Detector) -> None:
    vocabulary = Predictor(toy).vocabulary(NAMES, distractors=["tree"])
    manifest = manifest_of(toy, vocabulary, size_hw=(160, 224), batch=2, boxes=7, exact_boxes=3, nms="inside")
    assert Manifest.from_json(manifest.to_json(), "file") == manifest
    assert manifest.class_names == NAMES
    assert manifest.distractors == 1
    assert (manifest.boxes, manifest.exact_boxes) == (7, 3)


def test_says_which_weights_were_exported(toy: Detector) -> None:
    assert manifest_of(toy).fingerprint == weights_fingerprint(toy)
    other = copy.deepcopy(toy).half()
    assert weights_fingerprint(other) == weights_fingerprint(toy)
    with torch.no_grad():
        other.localizer.objectness_head.bias[0] += 1e-2
    assert weights_fingerprint(other) != weights_fingerprint(toy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "file that `cora export` wrote"),
        ({"format_version": 99}, "format version 1, got 99"),
        ({"vocabulary": "both"}, '"fixed" or "input"'),
        ({"vocabulary": "fixed"}, "some for a fixed vocabulary"),
        ({"class_names": ["cat", 3]}, "class_names"),
        ({"class_names": ["cat", "cat"], "vocabulary": "fixed"}, "every name once"),
        ({"distractors": -1}, "distractors"),
        ({"model": None}, "another type for model"),
        ({"settings": {"size_hw": [8, 8]}}, "at least 32 pixels"),
        ({"settings": {"what": 1}}, "description of an exported detector"),
        ({"config": {"tower": {"wheels": 4}}}, "TowerConfig expected"),
    ],
)
def test_faulty_texts_are_refused(toy: Detector, change: dict[str, object], message: str) -> None:
    values = json.loads(manifest_of(toy).to_json()) | change
    with pytest.raises(ModelError, match=message) as error:
        Manifest.from_json(json.dumps(values), "model.onnx")
    assert str(error.value).startswith("model.onnx: ")


@pytest.mark.parametrize("text", [None, "", "[" * 100_000, "[]", "{", " " * (MAX_TEXT + 1)])
def test_what_is_no_description_is_refused(text: str | None) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx: expected"):
        Manifest.from_json(text, "model.onnx")


@pytest.mark.parametrize(
    "wrong",
    [{"size_hw": (16, 64)}, {"batch": 0}, {"boxes": -1}, {"exact_boxes": -1}, {"nms": "both"}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="expected"):
        ExportSettings(**wrong)  # type: ignore[arg-type]
