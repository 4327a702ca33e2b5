"""Predicting: the fast way against the published one, vocabularies made once, reading ahead, the inference copy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.detector import Detector
from cora.errors import ImageError, VocabularyError
from cora.predictor import Predictor, at_precision
from cora.predictor.precision import FastParts
from cora.predictor.tiling import Tiles
from cora.structures import Detections

NAMES = ["cat", "dog", "red car"]


def picture(seed: int, height: int = 80, width: int = 100) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def postprocessing(detector: Detector, **changes: int) -> Detector:
    changed = copy.copy(detector)
    changed.config = replace(detector.config, postprocess=replace(detector.config.postprocess, **changes))
    return changed


def assert_same(mine: Detections, others: Detections, *, atol: float = 1e-5) -> None:
    """The same detections; rounding may exchange neighbours of equal scores."""
    torch.testing.assert_close(mine.scores, others.scores, rtol=1e-3, atol=atol)
    far = 1e4 * (mine.labels[:, None] != others.labels)
    places = (torch.cdist(mine.boxes_xyxy_px, others.boxes_xyxy_px) + far).argmin(dim=1)
    assert sorted(places.tolist()) == list(range(len(others)))
    torch.testing.assert_close(mine.scores, others.scores[places], rtol=1e-3, atol=atol)
    torch.testing.assert_close(mine.boxes_xyxy_px, others.boxes_xyxy_px[places], rtol=1e-3, atol=1e-2)
    assert torch.equal(mine.labels, others.labels[places])


def test_with_every_box_pooled_exactly_the_fast_way_is_the_published_one(detector: Detector) -> None:
    fast = postprocessing(detector, max_scored_boxes=0, exact_boxes=0)
    for seed in range(3):
        plain = Predictor(fast).predict(picture(seed), NAMES, score=0.001)
        published = Predictor(detector).predict(picture(seed), NAMES, score=0.001, score_all_boxes=True)
        assert len(published) > 0
        assert_same(plain, published)


def test_boxes_that_cannot_reach_the_score_change_nothing(detector: Detector) -> None:
    every = postprocessing(detector, max_scored_boxes=0, exact_boxes=1000)
    shown = Predictor(every).predict(picture(1), NAMES, score=0.001)
    bound = float(shown.scores.median())
    kept = shown.scores > bound
    above = Predictor(every).predict(picture(1), NAMES, score=bound)
    torch.testing.assert_close(above.scores, shown.scores[kept])
    torch.testing.assert_close(above.boxes_xyxy_px, shown.boxes_xyxy_px[kept])


def test_few_exact_boxes_keep_the_best_detections_near(detector: Detector) -> None:
    some = postprocessing(detector, exact_boxes=4)
    batch, vocabulary = some.preprocessor([picture(2), picture(3)]), Predictor(some).vocabulary(NAMES)
    with torch.inference_mode():
        mixed, fully = some(batch, vocabulary), postprocessing(detector, exact_boxes=0)(batch, vocabulary)
    assert torch.equal(mixed.boxes_cxcywh, fully.boxes_cxcywh)
    same = torch.isclose(mixed.probabilities, fully.probabilities, atol=1e-6).all(dim=-1)
    assert (same.sum(dim=1) >= 4).all()  # the exact ones of each image are those of the full way
    assert not same.all()  # and the others are estimates, not copies


def test_a_vocabulary_made_once_gives_the_same(detector: Detector) -> None:
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=["wall"], class_weights={"dog": 8.0})
    assert vocabulary.distractors is not None
    assert len(vocabulary.distractors) == 1
    mine = Predictor(detector).predict(picture(4), vocabulary, score=0.001)
    told = Predictor(detector).predict(picture(4), NAMES, score=0.001, distractors=["wall"], class_weights={"dog": 8.0})
    assert_same(mine, told, atol=0)
    with pytest.raises(VocabularyError, match="expected names of classes beside them, got an encoded vocabulary"):
        Predictor(detector).vocabulary(vocabulary, descriptions={"dog": ["it barks"]})


def test_no_distractors_is_a_choice_that_stays(detector: Detector) -> None:
    everyday = copy.copy(detector)
    every = replace(detector.config.postprocess, distractors="everyday")
    everyday.config = replace(detector.config, postprocess=every)
    assert len(Predictor(everyday).vocabulary(NAMES).all_embeddings) > 50
    alone = Predictor(everyday).vocabulary(NAMES, distractors=())
    assert len(alone.all_embeddings) == len(NAMES)
    told = Predictor(everyday).predict(picture(4), NAMES, score=0.0, distractors=())
    assert_same(Predictor(everyday).predict(picture(4), alone, score=0.0), told, atol=0)


def test_reading_ahead_keeps_the_order(detector: Detector, tmp_path: Path) -> None:
    files = []
    for seed in range(5):
        files.append(tmp_path / f"{seed}.png")
        picture(seed, 40 + 8 * seed).save(files[-1])
    for batch_size in (1, 2, 5, 7):
        found = Predictor(detector).predict(files, NAMES, score=0.0, batch_size=batch_size)
        assert [one.path for one in found] == [str(file) for file in files]
        assert [one.image_size[0] for one in found] == [40 + 8 * seed for seed in range(5)]
    files[3].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"3\.png"):
        Predictor(detector).predict(files, NAMES)
    assert Predictor(detector).predict([], NAMES) == []


def test_the_inference_copy_follows_the_weights(detector: Detector) -> None:
    mine = copy.deepcopy(detector)
    parts = FastParts()
    first = parts.view(mine, "float32").image_tower
    assert parts.view(mine, "float32").image_tower is first
    assert parts.view(mine, "bfloat16").image_tower is not first
    before = Predictor(mine).predict(picture(5), NAMES, score=0.0).scores
    weights = mine.state_dict()
    name = "image_tower.net.layer3.0.conv1.weight"
    mine.load_state_dict({**weights, name: torch.zeros_like(weights[name])})
    assert not torch.equal(Predictor(mine).predict(picture(5), NAMES, score=0.0).scores, before)


def test_a_view_shares_all_but_tower_and_localizer(detector: Detector) -> None:
    view = at_precision(detector, "bfloat16")
    for name in ("text_tower", "prompt", "classifier"):
        assert getattr(view, name) is getattr(detector, name)
    assert (view.image_tower.dtype, view.localizer.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (detector.image_tower.dtype, detector.localizer.dtype) == (torch.float32, torch.float32)
    assert at_precision(detector, "float32").localizer is detector.localizer
    assert detector.state_dict().keys() == {*detector.state_dict()}
    assert not any("inference" in name for name in detector.state_dict())


def test_the_copy_of_the_localizer_follows_training(detector: Detector) -> None:
    parts = FastParts()
    first = parts.view(detector, "bfloat16")
    assert parts.view(detector, "bfloat16").localizer is first.localizer
    with torch.no_grad():
        detector.localizer.objectness_head.bias += 1
    second = parts.view(detector, "bfloat16")
    assert second.localizer is not first.localizer
    assert second.image_tower is first.image_tower
    assert torch.equal(second.localizer.objectness_head.bias, detector.localizer.objectness_head.bias)


def test_a_view_predicts_as_its_detector(detector: Detector) -> None:
    view = at_precision(detector, "bfloat16")
    mine = Predictor(view).predict(picture(8), NAMES, score=0.0, precision="bfloat16")
    assert_same(mine, Predictor(detector).predict(picture(8), NAMES, score=0.0, precision="bfloat16"))


def test_half_precision_finds_the_same_boxes(detector: Detector) -> None:
    full = Predictor(detector).predict(picture(6), NAMES, score=0.0, max_detections=3)
    half = Predictor(detector).predict(picture(6), NAMES, score=0.0, max_detections=3, precision="bfloat16")
    torch.testing.assert_close(half.scores, full.scores, rtol=0.1, atol=0.02)


def test_tiles_keep_the_limit_and_the_path(detector: Detector, tmp_path: Path) -> None:
    picture(7).save(tmp_path / "photo.png")
    (found,) = Predictor(detector).predict(
        [tmp_path / "photo.png"], NAMES, score=0.0, tiles=Tiles(count=(2, 2)), max_detections=7
    )
    assert found.path == str(tmp_path / "photo.png")
    assert len(found) <= 7


def test_bad_options(detector: Detector) -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        Predictor(detector).predict(picture(0), NAMES, batch_size=0)
    with pytest.raises(ValueError, match="precision: expected one of"):
        Predictor(detector).predict(picture(0), NAMES, precision="int4")  # type: ignore[call-overload]
