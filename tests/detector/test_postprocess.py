"""From scored boxes to detections."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from cora.boxes import pairwise_iou, scale_to_pixels
from cora.detector.postprocess import PostprocessConfig, best_boxes, combine_scores, select_detections


def test_score_is_probability_times_objectness() -> None:
    probabilities, objectness = torch.rand(2, 3, 4), torch.randn(2, 3)
    expected = probabilities * objectness.sigmoid()[..., None]
    torch.testing.assert_close(combine_scores(probabilities, objectness), expected)
    torch.testing.assert_close(combine_scores(probabilities, objectness, 0.0), probabilities)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0.0, 1.0))
def test_detections_are_sorted_separate_and_inside(seed: int, limit: int, nms_iou: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = torch.rand(20, 4), torch.rand(20, 3)
    found, found_scores, labels = select_detections(
        boxes, scores, (120, 200), min_score=0.3, nms_iou=nms_iou, max_detections=limit
    )
    assert len(found) <= limit
    assert (found_scores > 0.3).all()
    assert (found_scores.diff() <= 0).all()
    assert (found >= 0).all()
    assert (found[:, [0, 2]] <= 200).all()
    assert (found[:, [1, 3]] <= 120).all()
    unclipped, _, _ = select_detections(
        boxes, scores, (120, 200), min_score=0.3, nms_iou=nms_iou, max_detections=limit, clip=False
    )
    for label in labels.unique():
        overlaps = pairwise_iou(unclipped[labels == label], unclipped[labels == label])
        assert (overlaps.fill_diagonal_(0) <= nms_iou + 1e-5).all()


def test_classes_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    _, scores, labels = select_detections(
        boxes, torch.tensor([[0.9, 0.8]]), (10, 10), min_score=0.1, nms_iou=0.5, max_detections=5
    )
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8]))


def test_nothing_found_is_empty() -> None:
    boxes, scores, labels = select_detections(
        torch.rand(4, 4), torch.zeros(4, 3), (10, 10), min_score=0.1, nms_iou=0.5, max_detections=5
    )
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


def test_best_boxes_are_those_of_highest_objectness() -> None:
    boxes, objectness = torch.rand(2, 6, 4), torch.randn(2, 6)
    top, kept = best_boxes(boxes, objectness, 2)
    expected = objectness.argsort(dim=1, descending=True)[:, :2]
    assert torch.equal(kept, objectness.gather(1, expected))
    assert torch.equal(top[1], boxes[1][expected[1]])
    for count in (0, 6, 9):
        assert best_boxes(boxes, objectness, count)[0] is boxes


def test_config_is_checked() -> None:
    for field, value in {
        "nms_iou": 2.0,
        "min_score": -1.0,
        "max_detections": 0,
        "max_scored_boxes": -1,
    }.items():
        with pytest.raises(ValueError, match=f"{field}: expected .*got {value}"):
            PostprocessConfig(**{field: value})  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_few_candidates_give_what_all_give(seed: int, limit: int, nms_iou: float) -> None:
    torch.manual_seed(seed)
    boxes = torch.rand(60, 4) * torch.tensor([0.3, 0.3, 0.6, 0.6]) + 0.2  # crowded, so that suppression has work
    scores = torch.rand(60, 9)
    found, found_scores, labels = select_detections(
        boxes, scores, (100, 100), min_score=0.1, nms_iou=nms_iou, max_detections=limit, clip=False
    )
    rows, every = (scores > 0.1).nonzero(as_tuple=True)
    candidates = scale_to_pixels(boxes, (100, 100))[rows]
    keep = batched_nms(candidates, scores[rows, every], every, nms_iou)[:limit]
    assert torch.equal(found, candidates[keep])
    assert torch.equal(labels, every[keep])
    assert torch.equal(found_scores, scores[rows, every][keep])
