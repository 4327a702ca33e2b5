"""One image, many lists of names: what knows no names runs once, and the boxes are the same to the last bit."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import cora
from cora.detector import Detector
from cora.detector.variants import ConditionalDetector, EndToEndDetector
from cora.errors import ImageError, ModelError
from cora.images import PreprocessConfig, Preprocessor
from cora.predictor import OptionError, Predictor, Tiles
from cora.structures import Detections
from tests.export.conftest import picture as wide_picture
from tests.export.conftest import toy_detector

LISTS = (["cat", "dog"], ["house"], ["dog", "cat", "tree", "lamp"])


def picture(seed: int) -> Image.Image:
    return wide_picture(120, 160, seed)


@pytest.fixture
def toy(tmp_path: Path) -> Detector:
    return toy_detector(tmp_path)


def assert_equal(found: Detections, expected: Detections) -> None:
    assert len(expected) > 0
    for one, other in ((found.boxes_xyxy_px, expected.boxes_xyxy_px), (found.scores, expected.scores)):
        assert torch.equal(one, other)
    assert found == expected


@pytest.mark.parametrize(
    "options", [{}, {"class_agnostic": True, "max_detections": 3}, {"distractors": ["sky"], "nms_iou": 0.3}]
)
def test_the_boxes_are_those_of_the_image(toy: Detector, options: dict[str, Any]) -> None:
    predictor = Predictor(toy)
    encoded = predictor.encode_image(picture(0))
    for names in LISTS:
        assert_equal(
            predictor.predict(encoded, names, score=0.0, **options),
            predictor.predict(picture(0), names, score=0.0, **options),
        )


def test_the_image_tower_runs_once(toy: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, seen = Predictor(toy), []
    features = type(toy.image_tower).features
    monkeypatch.setattr(type(toy.image_tower), "features", lambda *a, **k: seen.append(1) or features(*a, **k))
    encoded = predictor.encode_image(picture(0))
    for names in LISTS:
        predictor.predict(encoded, names, score=0.0)
    assert len(seen) == 1


@pytest.mark.slow
def test_embedded_models(tmp_path: Path) -> None:
    predictor, path = cora.load("nano"), tmp_path / "a.png"
    picture(0).save(path)
    encoded = predictor.encode_image(path)
    found = predictor.predict(encoded, ["cat", "cup"], score=0.001)
    assert_equal(found, predictor.predict(path, ["cat", "cup"], score=0.001))
    assert found.path == str(path)
    assert found.image is not None
    assert found.draw().size == picture(0).size
    maps = encoded.seen.c3.features
    assert encoded.nbytes >= maps.numel() * maps.element_size() > 0


def test_several_threads(toy: Detector) -> None:
    predictor = Predictor(toy)
    encoded = predictor.encode_image(picture(0))
    expected = [predictor.predict(picture(0), names, score=0.0) for names in LISTS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: predictor.predict(encoded, LISTS[number % 3], score=0.0), range(24)))
    for number, one in enumerate(found):
        assert_equal(one, expected[number % 3])


@pytest.mark.parametrize("variant", [ConditionalDetector, EndToEndDetector])
def test_other_ways_to_decode(toy: Detector, variant: Any) -> None:
    predictor = Predictor(variant.of(toy))
    encoded = predictor.encode_image(picture(0))
    assert_equal(predictor.predict(encoded, LISTS[0], score=0.0), predictor.predict(picture(0), LISTS[0], score=0.0))


def test_what_needs_other_maps_is_refused(toy: Detector) -> None:
    predictor = Predictor(toy)
    encoded = predictor.encode_image(picture(0))
    with pytest.raises(OptionError, match="tiles: expected none with an encoded image"):
        predictor.predict(encoded, LISTS[0], tiles=Tiles(count=(2, 2)))
    with pytest.raises(OptionError, match="score_all_boxes: expected none with an encoded image"):
        predictor.predict(encoded, LISTS[0], score_all_boxes=True)
    with pytest.raises(ImageError):
        predictor.encode_image("nowhere.png")
    with pytest.raises(ImageError, match="EncodedImage"):
        predictor.predict([encoded], LISTS[0])  # type: ignore[list-item]


def test_an_image_that_another_model_encoded_is_refused(toy: Detector, tmp_path: Path) -> None:
    predictor = Predictor(toy)
    encoded = predictor.encode_image(picture(0))
    message = "expected one of this predictor as it is now.*encode the image again"
    predictor.predict(encoded, LISTS[0])
    Predictor(toy).predict(encoded, LISTS[0])  # the same network
    with pytest.raises(ModelError, match=message):
        Predictor(toy_detector(tmp_path)).predict(encoded, LISTS[0])
    with pytest.raises(ModelError, match=message):
        predictor.predict(encoded, LISTS[0], precision="bfloat16")
    with pytest.raises(ModelError, match=message):
        Predictor(toy, preprocessor=Preprocessor.from_config(PreprocessConfig())).predict(encoded, LISTS[0])
    with torch.no_grad():
        next(toy.localizer.parameters()).add_(1.0)
    with pytest.raises(ModelError, match=message):
        predictor.predict(encoded, LISTS[0])
