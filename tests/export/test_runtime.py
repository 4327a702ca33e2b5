"""The runtime around a graph, with PyTorch running the graph: nothing is exported here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from cora.data.builtin_names import builtin_names
from cora.detector import Detector
from cora.errors import CoraError, ModelError, VocabularyError
from cora.export import ExportedDetector, Manifest
from cora.export.backends import Arrays, OnnxRuntime
from cora.export.check import compare, drawn_pictures, plain_detector
from cora.export.graph import DetectorGraph, FixedVocabularyGraph
from cora.export.program import input_names
from cora.export.suppression import kept_boxes
from cora.predictor import Predictor
from cora.predictor.tiling import Tiles
from cora.regions import Vocabulary
from tests.export.conftest import NAMES, manifest_of, picture, toy_detector
from tests.tolerances import assert_near

pytestmark = pytest.mark.integration


class Eager:
    """The graph itself, called with arrays."""

    name = "PyTorch"

    def __init__(self, detector: Detector, manifest: Manifest, vocabulary: Vocabulary | None) -> None:
        graph = DetectorGraph(detector=detector, manifest=manifest, suppress=kept_boxes)
        self.graph = graph if vocabulary is None else FixedVocabularyGraph(graph=graph, vocabulary=vocabulary)
        self.names = input_names(manifest)
        self.batches: list[int] = []
        self.moved = 0.0

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        self.batches.append(len(inputs["pixels"]))
        with torch.no_grad():
            outputs = self.graph(*(torch.from_numpy(inputs[name]) for name in self.names))
        return [outputs[0].numpy() + self.moved, *(output.numpy() for output in outputs[1:])]


def exported(detector: Detector, vocabulary: Vocabulary | None = None, **settings: object) -> ExportedDetector:
    manifest = manifest_of(detector, vocabulary, **settings)
    return ExportedDetector(
        backend=Eager(detector, manifest, vocabulary), manifest=manifest, load_text_model=lambda _: detector
    )


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) > 0
    assert found.names == expected.names
    assert_near(found.scores, expected.scores)
    torch.testing.assert_close(found.boxes_xyxy_px, expected.boxes_xyxy_px, rtol=1e-4, atol=0.01)
    assert found.image_size == expected.image_size


@pytest.mark.parametrize("nms", ["outside", "inside"])
def test_predicts_what_the_detector_predicts(toy: Detector, nms: str) -> None:
    model = exported(toy, nms=nms)
    photos = [picture(120, 160), picture(90, 160, seed=1), picture(151, 101, seed=2)]
    options: dict[str, Any] = {"score": 0.001, "distractors": ["tree"], "class_weights": {"dog": 2.0}, "batch_size": 2}
    for found, expected in zip(
        model.predict(photos, NAMES, **options), Predictor(toy).predict(photos, NAMES, **options), strict=True
    ):
        assert_same(found, expected)
    assert model.backend.batches == [1, 1, 1]  # images of different sizes never share a pass
    other = model.predict(photos[0], ["bus", "lamp"], score=0.001)  # other names, other number of them
    assert_same(other, Predictor(toy).predict(photos[0], ["bus", "lamp"], score=0.001))
    encoded = model.vocabulary(["bus", "lamp"])
    assert_same(model.predict(photos[0], encoded, score=0.001), other)


@pytest.mark.parametrize("nms", ["outside", "inside"])
def test_a_choice_of_fixed_names(toy: Detector, nms: str) -> None:
    model = exported(toy, Predictor(toy).vocabulary(NAMES, distractors=()), nms=nms)
    assert model.class_names == NAMES
    everything = model.predict(picture(120, 160), score=0.001)
    assert_same(everything, Predictor(toy).predict(picture(120, 160), NAMES, score=0.001))
    chosen = model.predict(picture(120, 160), ["HOUSE", "cat"], score=0.001, distractors=())
    assert chosen.class_names == ("HOUSE", "cat")
    expected = [(name.casefold(), score, box) for name, score, box in everything if name != "dog"]
    assert [(name.casefold(), score, box) for name, score, box in chosen] == expected
    assert expected


@pytest.mark.parametrize("nms", ["outside", "inside"])
def test_suppression_between_classes(toy: Detector, nms: str) -> None:
    model, photo = exported(toy, nms=nms), picture(120, 160)
    plain = model.predict(photo, NAMES, score=0.001)
    found = model.predict(photo, NAMES, score=0.001, class_agnostic=True)
    assert 0 < len(found) < len(plain)
    overlap = box_iou(found.boxes_xyxy_px, found.boxes_xyxy_px).fill_diagonal_(0)
    assert float(overlap.max()) <= 0.4 + 1e-6
    assert_same(found, Predictor(toy).predict(photo, NAMES, score=0.001, class_agnostic=True))


def test_options_are_checked_as_in_pytorch(toy: Detector) -> None:
    model = exported(toy)
    with pytest.raises(TypeError, match="got 'conf'; use 'score'"):
        model.predict(picture(120, 160), NAMES, conf=0.5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"score: expected a number in 0\.\.1, got nan"):
        model.predict(picture(120, 160), NAMES, score=float("nan"))
    with pytest.raises(VocabularyError, match="put it in a list"):
        model.vocabulary("cat")
    streamed = model.predict(iter([picture(120, 160)]), NAMES, score=0.001)
    assert_same(next(streamed), model.predict(picture(120, 160), NAMES, score=0.001))
    with pytest.raises(ModelError, match="expected a model by name or a checkpoint, got an exported file"):
        _ = model.detector
    with pytest.raises(ModelError, match="encode_image: expected a model by name or a checkpoint, got an exported"):
        model.encode_image(picture(120, 160))
    with pytest.raises(ModelError, match="encoded image: expected one of this predictor"):
        model.predict(Predictor(toy).encode_image(picture(120, 160)), NAMES)


def test_a_fixed_batch_is_filled_and_divided(toy: Detector) -> None:
    model = exported(toy, size_hw=(192, 256), batch=2)
    photos = [picture(120, 160, seed=seed) for seed in range(3)]
    found = model.predict(photos, NAMES, score=0.001, batch_size=3)
    assert model.backend.batches == [2, 2]  # type: ignore[attr-defined]
    padded = plain_detector(toy, model.manifest)
    padded.preprocessor = model.preprocessor
    for one, expected in zip(found, Predictor(padded).predict(photos, NAMES, score=0.001), strict=True):
        assert_same(one, expected)


def test_tiles(toy: Detector) -> None:
    tiles = Tiles(count=(2, 2))
    found = exported(toy).predict(picture(300, 400), NAMES, score=0.001, tiles=tiles)
    assert_same(found, Predictor(toy).predict(picture(300, 400), NAMES, score=0.001, tiles=tiles))


def test_exemplars_are_embedded_by_the_model_that_was_exported(toy: Detector, tmp_path: Path) -> None:
    exemplars = {"logo": [picture(64, 64, seed=5)]}
    found = exported(toy).predict(picture(120, 160), ["cat"], score=0.001, exemplars=exemplars)
    assert_same(found, Predictor(toy).predict(picture(120, 160), ["cat"], score=0.001, exemplars=exemplars))
    manifest = replace(manifest_of(toy), fingerprint="another")
    model = ExportedDetector(
        backend=Eager(toy, manifest, None), manifest=manifest, load_text_model=lambda _: toy_detector(tmp_path)
    )
    with pytest.raises(ModelError, match="exemplars need the model that was exported"):
        model.predict(picture(120, 160), ["cat"], exemplars=exemplars)


def test_prompts_of_a_class_are_fixed_with_its_name(toy: Detector) -> None:
    classes = {"mug": ["cup", "coffee cup"], "spoon": ["spoon"]}
    expected = Predictor(toy).predict(picture(120, 160), classes, score=0.001)
    model = exported(toy, Predictor(toy).vocabulary(classes))
    assert model.class_names == ("mug", "spoon")
    assert_same(model.predict(picture(120, 160), score=0.001), expected)
    assert_same(model.predict(picture(120, 160), {"mug": "mug", "spoon": "spoon"}, score=0.001), expected)
    for asked in (classes, ["mug = cup | coffee cup"]):
        with pytest.raises(
            VocabularyError, match="prompts: expected none, since names are fixed in the exported model"
        ):
            model.predict(picture(120, 160), asked)
    at_run_time = exported(toy)
    assert_same(at_run_time.predict(picture(120, 160), classes, score=0.001), expected)


@pytest.mark.parametrize("nms", ["outside", "inside"])
def test_without_classes(toy: Detector, nms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = builtin_names()[:12]  # the toy's tower takes seconds for all
    monkeypatch.setattr("cora.predictor.vocabulary.builtin_names", lambda: names)
    model, photo = exported(toy, nms=nms), picture(120, 160)
    assert model.vocabulary().built_in
    found = model.predict(photo, score=0.001)
    assert found.class_names == names
    if nms == "outside":
        assert_same(found, Predictor(toy).predict(photo, score=0.001))
    assert found == model.predict(photo, names, score=0.001, class_agnostic=True)
    assert len(found) < len(model.predict(photo, score=0.001, class_agnostic=False))
    fixed = exported(toy, Predictor(toy).vocabulary(NAMES), nms=nms)
    assert fixed.own_names == NAMES
    assert not fixed.vocabulary().built_in
    tuned = toy.with_parts(config=replace(toy.config, class_names=("RBC", "WBC")))
    assert exported(tuned, nms=nms).predict(photo, score=0.001).class_names == ("RBC", "WBC")


def test_without_classes_and_without_a_text_tower_it_is_refused_in_one_line(toy: Detector) -> None:
    def lost(name: str) -> Detector:
        raise ModelError(f"unknown model {name!r}; expected one that 'cora models' lists")

    manifest = manifest_of(toy)
    model = ExportedDetector(backend=Eager(toy, manifest, None), manifest=manifest, load_text_model=lost)
    with pytest.raises(ModelError, match=r"names need the text tower of .*: unknown model") as error:
        model.predict(picture(120, 160))
    assert "\n" not in str(error.value)


def test_fixed_names_cannot_be_changed(toy: Detector) -> None:
    model = exported(toy, Predictor(toy).vocabulary(NAMES, distractors=["tree"]))
    with pytest.raises(VocabularyError, match="some of the 3 that were exported with the model, got 'bus'"):
        model.predict(picture(120, 160), ["cat", "bus"])
    for name, value in (("distractors", []), ("class_weights", {"cat": 2.0}), ("descriptions", {"cat": ["a pet"]})):
        with pytest.raises(VocabularyError, match=f"{name} cannot be changed"):
            model.predict(picture(120, 160), ["cat"], **{name: value})  # type: ignore[call-overload]
    with pytest.raises(VocabularyError, match="templates: expected none"):
        model.vocabulary_encoder.templates = "plain"


def test_suppression_in_the_graph_cannot_be_changed(toy: Detector) -> None:
    model = exported(toy, nms="inside")
    for options, message in (
        ({"nms_iou": 0.9}, "nms_iou of 0.4, got 0.9"),
        ({"max_detections": 101}, "max_detections of at most 100, got 101"),
        ({"score": 0.0}, "score of at least 0.0001"),
    ):
        with pytest.raises(ModelError, match=message):
            model.predict(picture(120, 160), NAMES, **options)  # type: ignore[call-overload]


def test_another_text_tower_is_refused(toy: Detector) -> None:
    manifest = replace(manifest_of(toy), text_fingerprint="another")
    model = ExportedDetector(
        backend=Eager(toy, manifest, None), manifest=manifest, load_text_model=lambda _: toy, text_model="mine"
    )
    with pytest.raises(ModelError, match=r"mine has another; export it again, or name .* with --text-model"):
        model.predict(picture(120, 160), NAMES)


@pytest.mark.parametrize("options", [{"score_all_boxes": True}, {"precision": "bfloat16"}])
def test_options_that_a_graph_has_not_are_refused(toy: Detector, options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="fixed when it was exported"):
        exported(toy).predict(picture(120, 160), NAMES, **options)


def test_the_check_finds_a_graph_that_is_wrong(toy: Detector) -> None:
    model = exported(toy)
    vocabularies = [Predictor(toy).vocabulary(NAMES), Predictor(toy).vocabulary(["bus"])]
    right = compare(toy, model, drawn_pictures(), vocabularies)
    assert right.passes
    assert right.off == 0
    assert right.compared == 2 * 4 * 12
    model.backend.moved = 0.01  # type: ignore[attr-defined]
    wrong = compare(toy, model, drawn_pictures(), vocabularies)
    assert not wrong.passes
    assert wrong.off == wrong.compared


def test_files_that_are_not_exported_detectors(tmp_path: Path) -> None:
    garbage = tmp_path / "model.onnx"
    garbage.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="a graph that ONNX Runtime loads"):
        OnnxRuntime(garbage)
    with pytest.raises(CoraError, match="a device that this ONNX Runtime has"):
        OnnxRuntime(garbage, device="tpu")
