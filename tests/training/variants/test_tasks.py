"""Each task differs from CORA's in the way it claims."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cora.detector import Detector
from cora.detector.variants import EndToEndDetector
from cora.localizer import LocalizerOutput
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.losses import sigmoid_focal_loss
from cora.training.variants import ConditionalTask, EndToEndTask, RegionProposalTask, TopKTask, TrueClassTask

PLAIN = LocalizerTaskConfig(class_dropout=0.0)
BOXES = torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.7, 0.6, 0.4, 0.3], [0.5, 0.5, 0.8, 0.8]])


def batch(classes: tuple[int, ...] = (0, 1, 2)) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    generator = torch.Generator().manual_seed(0)
    c3 = torch.randn(2, 64, 6, 6, generator=generator)
    c4 = torch.randn(2, 128, 3, 3, generator=generator)
    one = Targets(boxes_cxcywh=BOXES, classes=torch.tensor(classes))
    return (
        FeatureMap(c3, torch.zeros(2, 6, 6, dtype=torch.bool)),
        FeatureMap(c4, torch.zeros(2, 3, 3, dtype=torch.bool)),
        (one, Targets(boxes_cxcywh=BOXES[:1], classes=one.classes[:1])),
    )


def copies(task: LocalizerTask, classes: tuple[int, ...] = (0, 1, 2)) -> Any:
    c3, c4, targets = batch(classes)
    return task.copies(task.detector.localizer.encode(c3), c4, targets)


def test_region_proposals_learn_the_same_whatever_the_classes(detector: Detector, vocabulary: Vocabulary) -> None:
    other = Vocabulary(tuple("abc"), torch.randn(3, 16))
    losses = [
        RegionProposalTask(detector=detector, vocabulary=words, config=PLAIN).train()(batch(classes))
        for words, classes in ((vocabulary, (0, 1, 2)), (vocabulary, (4, 4, 0)), (other, (2, 1, 0)))
    ]
    for other_losses in losses[1:]:
        for name, value in losses[0].items():
            torch.testing.assert_close(other_losses[name], value)
    # Any query may match any box, so none is left out.
    assert losses[0]["matched_share"] == 1
    assert LocalizerTask(detector=detector, vocabulary=vocabulary, config=PLAIN)(batch())["matched_share"] < 1


def test_conditional_matching_looks_for_every_class_of_an_image_by_itself(
    detector: Detector, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConditionalTask, "absent", 1)
    task = ConditionalTask(detector=detector, vocabulary=vocabulary, config=PLAIN).train()
    (copy,) = copies(task)
    # Three classes and one absent; one class and one absent.
    assert copy.anchors_cxcywh.shape[0] == len(copy.targets) == len(copy.memory.tokens) == 4 + 2
    assert all(len(row.unique()) == 1 for row in copy.classes)
    assert [len(one) for one in copy.targets] == [1, 1, 1, 0, 1, 0]
    assert copy.classes[:3, 0].tolist() == [0, 1, 2]
    for row, one in zip(copy.classes, copy.targets, strict=True):
        assert (one.classes == row[0]).all()
    assert torch.equal(copy.memory.tokens[4], copy.memory.tokens[5])
    assert task(batch())["matched_share"] == 1


def test_an_image_without_boxes_is_still_looked_at(
    detector: Detector, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConditionalTask, "absent", 0)
    task = ConditionalTask(detector=detector, vocabulary=vocabulary, config=PLAIN).train()
    c3, c4, targets = batch()
    nothing = Targets(boxes_cxcywh=BOXES[:0], classes=torch.zeros(0, dtype=torch.int64))
    (copy,) = task.copies(task.detector.localizer.encode(c3), c4, (targets[0], nothing))
    assert len(copy.targets) == 3 + 1


def test_true_classes_reach_the_anchors_that_overlap_a_box(detector: Detector, vocabulary: Vocabulary) -> None:
    task = TrueClassTask(detector=detector, vocabulary=vocabulary, config=PLAIN).eval()
    anchors = task.detector.localizer.learned_anchors
    assert anchors is not None
    places = torch.tensor([0.02, 0.02, 0.01, 0.01]).repeat(12, 1)  # over no box
    places[0], places[1], places[2] = BOXES[0], BOXES[1], BOXES[2]
    anchors.start_from(places)
    usual = LocalizerTask(detector=detector, vocabulary=vocabulary, config=PLAIN).eval()
    for classes in ((0, 1, 2), (4, 3, 1)):
        (copy,), (plain,) = copies(task, classes), copies(usual, classes)
        assert copy.classes[0, :3].tolist() == list(classes)
        assert copy.classes[1, 0] == classes[0]
        assert torch.equal(copy.classes[:, 3:], plain.classes[:, 3:])
    assert task(batch())["matched_share"] == 1


def test_oracles_keep_to_the_classes_that_a_copy_is_given(detector: Detector, vocabulary: Vocabulary) -> None:
    task = TrueClassTask(
        detector=detector, vocabulary=vocabulary, config=LocalizerTaskConfig(class_dropout=1.0)
    ).train()
    for copy in copies(task):
        assert torch.isin(copy.classes, copy.known).all()


def test_top_k_makes_k_queries_an_anchor_of_different_classes(
    detector: Detector, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_k(top_k: int) -> Any:
        monkeypatch.setattr(TopKTask, "top_k", top_k)
        return copies(TopKTask(detector=detector, vocabulary=vocabulary, config=PLAIN))[0]

    one, three = of_k(1), of_k(3)
    (usual,) = copies(LocalizerTask(detector=detector, vocabulary=vocabulary, config=PLAIN))
    assert torch.equal(one.classes, usual.classes)
    assert torch.equal(three.classes[:, ::3], usual.classes)
    assert torch.equal(three.anchors_cxcywh, usual.anchors_cxcywh.repeat_interleave(3, dim=1))
    assert all(len(set(row)) == 3 for row in three.classes.unflatten(1, (-1, 3)).flatten(0, 1).tolist())


def test_top_k_of_fewer_classes_repeats_them(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopKTask, "top_k", 3)
    two = Vocabulary(("a", "b"), torch.randn(2, 16))
    (copy,) = copies(TopKTask(detector=detector, vocabulary=two, config=PLAIN), (0, 1, 1))
    assert copy.classes.shape == (2, 36)
    assert torch.equal(copy.classes[:, ::3], copy.classes[:, 2::3])


def test_end_to_end_loss_is_a_focal_loss_over_the_classes_given(detector: Detector, vocabulary: Vocabulary) -> None:
    detector = EndToEndDetector.of(detector)
    task = EndToEndTask(detector=detector, vocabulary=vocabulary, config=PLAIN).eval()
    (copy,) = copies(task)
    output = task.decode(copy, copy.anchors_cxcywh, copy.classes)
    assert output.class_logits.shape == (2, 2, 12, 5)
    expected = detector.class_logits(output, vocabulary.embeddings)
    torch.testing.assert_close(output.class_logits, expected)
    own = expected.gather(-1, copy.classes.expand(2, 2, 12)[..., None])[..., 0]
    torch.testing.assert_close(output.objectness, own)
    losses = task.matched_losses(output, copy)
    matches = task.criterion.match(
        output, copy.targets, [row[:, None] == one.classes for row, one in zip(copy.classes, copy.targets, strict=True)]
    )[-1]
    wanted = torch.zeros(2, 12, 5)
    for image, query, target in zip(matches.image, matches.query, matches.target, strict=True):
        wanted[image, query, copy.targets[int(image)].classes[target]] = 1
    focal = sigmoid_focal_loss(expected[-1], wanted).sum() / max(1, len(matches))
    torch.testing.assert_close(losses["objectness"], focal)


def test_the_end_to_end_head_sees_only_the_classes_of_its_copy(detector: Detector, vocabulary: Vocabulary) -> None:
    task = EndToEndTask(
        detector=EndToEndDetector.of(detector), vocabulary=vocabulary, config=LocalizerTaskConfig(class_dropout=1.0)
    ).train()
    for copy in copies(task):
        output = task.decode(copy, copy.anchors_cxcywh, copy.classes)
        assert output.class_logits.shape[-1] == len(copy.known)
        assert torch.isfinite(task.matched_losses(output, copy)["total"])


def test_the_end_to_end_task_needs_its_detector(detector: Detector, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="expected an EndToEndDetector, got Detector"):
        EndToEndTask(detector=detector, vocabulary=vocabulary)
    task = EndToEndTask(detector=EndToEndDetector.of(detector), vocabulary=vocabulary, config=PLAIN)
    output = LocalizerOutput(*(torch.rand(1, 1, 2, 4), torch.rand(1, 1, 2), torch.rand(1, 1, 2, 4)), torch.rand(1))
    with pytest.raises(ValueError, match="expected class logits"):
        task.criterion.query_logits(output, 0, batch()[2][0])
