"""The detector: its steps, its promises about frozen parts and batches, predicting."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.detector import Detector
from cora.detector.former_names import former_names
from cora.errors import ImageError, VocabularyError
from cora.predictor import Predictor
from cora.structures import Detections, ImageBatch
from tests.tolerances import assert_near

NAMES = ["cat", "dog", "red car"]


def picture(height: int = 80, width: int = 100, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def batch_of(detector: Detector, *pictures: Image.Image) -> ImageBatch:
    return detector.preprocessor(list(pictures))


def test_forward_reads_like_the_figure(detector: Detector) -> None:
    lines = inspect.getsource(Detector.forward).splitlines()
    assert len(lines) <= 15
    batch, vocabulary = (
        batch_of(detector, picture(), picture(60, 120, 1)),
        detector.vocabulary_encoder.encode(NAMES),
    )
    output = detector(batch, vocabulary)
    assert output.boxes_cxcywh.shape == (2, 12, 4)
    assert output.scores.shape == output.probabilities.shape == (2, 12, 3)
    assert ((output.scores >= 0) & (output.scores <= 1)).all()
    expected = output.probabilities * output.objectness.sigmoid()[..., None]
    torch.testing.assert_close(output.scores, expected)


def test_steps_recombine_to_forward(detector: Detector) -> None:
    batch, vocabulary = batch_of(detector, picture()), detector.vocabulary_encoder.encode(NAMES)
    c3, c4 = detector.encode(batch)
    matched = detector.pre_match(c4, detector.anchors(detector.encode_map(c3)), vocabulary)
    decoded = detector.decode(detector.encode_map(c3), matched)
    probabilities = detector.classify(c3, decoded.boxes_cxcywh[-1], vocabulary)
    torch.testing.assert_close(probabilities, detector(batch, vocabulary).probabilities)


def test_images_do_not_depend_on_the_batch(detector: Detector) -> None:
    first, second = picture(seed=1), picture(seed=2)
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    with torch.inference_mode():
        together = detector(batch_of(detector, first, second), vocabulary)
        alone = detector(batch_of(detector, second), vocabulary)
    assert_near(together.boxes_cxcywh[1], alone.boxes_cxcywh[0])
    torch.testing.assert_close(together.scores[1], alone.scores[0], atol=1e-5, rtol=1e-3)


def test_order_of_classes_only_moves_the_columns(detector: Detector) -> None:
    batch = batch_of(detector, picture())
    with torch.inference_mode():
        straight = detector(batch, detector.vocabulary_encoder.encode(NAMES))
        turned = detector(batch, detector.vocabulary_encoder.encode(NAMES[::-1]))
    order = straight.objectness[0].argsort()
    other = turned.objectness[0].argsort()
    torch.testing.assert_close(straight.scores[0][order], turned.scores[0][other].flip(-1), atol=1e-5, rtol=1e-3)


def test_a_step_changes_prompt_and_localizer_only(detector: Detector) -> None:
    detector.train()
    frozen = {
        name: value.clone()
        for name, value in detector.state_dict().items()
        if name.startswith(("image_tower", "text_tower"))
    }
    trainable = {name: value for name, value in detector.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in trainable} == {"prompt", "localizer"}
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-2, weight_decay=0.1)
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    batch = batch_of(detector, picture())
    c3, c4 = detector.encode(batch)
    decoded = detector.decode(
        detector.encode_map(c3), detector.pre_match(c4, detector.anchors(detector.encode_map(c3)), vocabulary)
    )
    region_loss = detector.classify(c3, decoded.boxes_cxcywh[-1].detach(), vocabulary).square().sum()
    (decoded.boxes_cxcywh.square().sum() + decoded.objectness.square().sum() + region_loss).backward()
    without = [name for name, value in trainable.items() if value.grad is None]
    assert without == []
    before = detector.prompt.offset.clone()
    optimizer.step()
    assert all(torch.equal(detector.state_dict()[name], value) for name, value in frozen.items())
    assert not torch.equal(detector.prompt.offset, before)
    assert not any(module.training for module in detector.image_tower.modules())
    assert detector.localizer.training


def test_one_in_one_out_and_many_in_many_out(detector: Detector, tmp_path: Path) -> None:
    picture().save(tmp_path / "one.png")
    single = Predictor(detector).predict(tmp_path / "one.png", NAMES, score=0.0)
    assert isinstance(single, Detections)
    assert single.path == str(tmp_path / "one.png")
    assert single.image_size == (80, 100)
    assert single.class_names == tuple(NAMES)
    sources = [str(tmp_path / "one.png"), picture(), np.asarray(picture(60, 90, 3))]
    many = Predictor(detector).predict(sources, NAMES, score=0.0, batch_size=2)
    assert [found.image_size for found in many] == [(80, 100), (80, 100), (60, 90)]
    assert [found.path is None for found in many] == [False, True, True]
    torch.testing.assert_close(many[0].scores, single.scores, atol=1e-5, rtol=1e-3)
    assert Predictor(detector).predict([], NAMES) == []
    assert len(Predictor(detector).predict(picture(), NAMES, score=0.0, max_detections=2)) <= 2


def test_predict_keeps_the_mode_and_takes_a_vocabulary(detector: Detector) -> None:
    detector.train()
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    first = Predictor(detector).predict(picture(), vocabulary, score=0.0)
    assert detector.training
    detector.eval()
    second = Predictor(detector).predict(picture(), NAMES, score=0.0, class_weights={"dog": 1.0})
    torch.testing.assert_close(first.scores, second.scores)


def test_class_weights_turn_the_pre_matching(detector: Detector) -> None:
    batch = batch_of(detector, picture())
    c3, c4 = detector.encode(batch)
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    anchors = detector.anchors(detector.encode_map(c3))
    plain = detector.pre_match(c4, anchors, vocabulary).classes
    same = detector.pre_match(c4, anchors, vocabulary.weighted({"dog": 1.0})).classes
    assert torch.equal(plain, same)
    nearest = (detector.embed_fast(c4, anchors) @ vocabulary.embeddings.T).argmax(dim=-1)
    assert torch.equal(plain, nearest)
    heavy = detector.pre_match(c4, anchors, vocabulary.weighted({"red car": 1e30})).classes
    assert (heavy == 2).all()


def test_errors_of_predict(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        Predictor(detector).predict(tmp_path / "none.jpg", NAMES)
    with pytest.raises(VocabularyError, match="empty list"):
        Predictor(detector).predict(picture(), [])
    with pytest.raises(VocabularyError, match="context of 16 tokens"):
        Predictor(detector).predict(picture(), ["word " * 30])
    with pytest.raises(VocabularyError, match="got bird"):
        Predictor(detector).predict(picture(), NAMES, class_weights={"bird": 2.0})
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        Predictor(detector).predict(picture(), NAMES, batch_size=0)


def test_distractors_take_probability_and_are_never_reported(detector: Detector) -> None:
    alone = Predictor(detector).predict(picture(), ["cat"], score=0.0, nms_iou=1.0, distractors=())
    beside = Predictor(detector).predict(picture(), ["cat"], score=0.0, nms_iou=1.0, distractors=["dog", "tree"])
    assert set(beside.labels.tolist()) <= {0}
    assert beside.scores.sum() < alone.scores.sum()


def test_no_boxes_give_no_embeddings(detector: Detector) -> None:
    c3, c4 = detector.encode(batch_of(detector, picture()))
    nothing = torch.zeros(1, 0, 4)
    width = detector.image_tower.embed_dim
    assert detector.embed_exact(c3, nothing).shape == (1, 0, width)
    assert detector.embed_fast(c4, nothing).shape == (1, 0, width)


def test_former_names_still_work(detector: Detector) -> None:
    @former_names(least_score="score_threshold")
    def threshold(score_threshold: float = 0.0) -> float:
        return score_threshold

    assert (threshold(), threshold(0.1)) == (0, 0.1)
    assert (threshold(score_threshold=0.2), threshold(least_score=0.3)) == (0.2, 0.3)
    batch, vocabulary = batch_of(detector, picture()), detector.vocabulary_encoder.encode(NAMES)
    seen, expected = detector.see(batch), detector(batch, vocabulary, score_threshold=0.3)
    for output in (
        detector(batch, vocabulary, least_score=0.3),
        detector.detect(seen, vocabulary, least_score=0.3),
        Predictor(detector).forward(batch, vocabulary, least_score=0.3),
    ):
        assert_near(output.scores, expected.scores)
    boxes = {"boxes_cxcywh": expected.boxes_cxcywh, "objectness": expected.objectness, "vocabulary": vocabulary}
    found = detector.classify_best(c3=seen.c3, projected=seen.projected, least_score=0.3, **boxes)
    assert_near(found, expected.probabilities)
    prepared = detector.project(detector.encode(batch)[1])
    embeddings = detector.embed_aligned(projected=prepared, boxes_cxcywh=expected.boxes_cxcywh)
    assert embeddings.equal(detector.embed_aligned(seen.prepared, expected.boxes_cxcywh))
