"""Which boxes are pooled exactly, and that leaving boxes out changes nothing where it must not."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cora.detector.fast_scoring import scatter_rows, worth_exact_pooling

FAR_APART = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])


def test_the_best_by_estimate_come_first() -> None:
    scores = torch.tensor([[0.1, 0.2], [0.6, 0.0], [0.0, 0.4]])
    chosen = worth_exact_pooling(FAR_APART, scores, torch.ones(3), count=2, nms_iou=0.5)
    assert chosen.tolist() == [1, 2]


def test_a_box_that_a_better_one_of_its_class_covers_is_left_out() -> None:
    boxes = FAR_APART[[0, 0, 1]]
    same = torch.tensor([[0.5, 0.1], [0.6, 0.1], [0.1, 0.1]])
    assert worth_exact_pooling(boxes, same, torch.ones(3), count=3, nms_iou=0.5).tolist() == [1, 2]
    other = torch.tensor([[0.5, 0.1], [0.1, 0.6], [0.1, 0.1]])
    assert sorted(worth_exact_pooling(boxes, other, torch.ones(3), count=3, nms_iou=0.5).tolist()) == [0, 1, 2]


def test_a_box_that_cannot_reach_the_score_is_left_out() -> None:
    shares = torch.tensor([0.9, 0.29, 0.31])
    scores = torch.rand(3, 2) * shares[:, None]
    for count in (0, 3):
        chosen = worth_exact_pooling(FAR_APART, scores, shares, count=count, nms_iou=0.5, score_threshold=0.3)
        assert sorted(chosen.tolist()) == [0, 2]


def test_no_box_and_no_possible_box_give_none() -> None:
    nothing = worth_exact_pooling(FAR_APART[:0], torch.rand(0, 2), torch.rand(0), count=5, nms_iou=0.5)
    assert nothing.shape == (0,)
    assert not len(worth_exact_pooling(FAR_APART, torch.rand(3, 2), torch.zeros(3), count=5, nms_iou=0.5))


@given(seed=st.integers(0, 999), count=st.integers(1, 30), boxes=st.integers(0, 25))
def test_never_more_than_asked_and_none_twice(seed: int, count: int, boxes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(boxes, 4, generator=generator) * 0.4 + 0.1
    shares = torch.rand(boxes, generator=generator)
    scores = torch.rand(boxes, 3, generator=generator) * shares[:, None]
    chosen = worth_exact_pooling(drawn, scores, shares, count=count, nms_iou=0.5, score_threshold=0.2).tolist()
    assert len(chosen) == len(set(chosen)) <= count
    assert all(shares[place] > 0.2 for place in chosen)
    best = scores.max(dim=1).values
    assert chosen == sorted(chosen, key=lambda place: -best[place])


def test_rows_are_replaced_image_by_image() -> None:
    rows = torch.zeros(2, 3, 2)
    new = torch.arange(1.0, 7.0).view(3, 2)
    result = scatter_rows(rows, [torch.tensor([2]), torch.tensor([1, 0])], new)
    assert result[0].tolist() == [[0, 0], [0, 0], [1, 2]]
    assert result[1].tolist() == [[5, 6], [3, 4], [0, 0]]
    assert not rows.any()
    nobody = torch.zeros(0, dtype=torch.long)
    assert torch.equal(scatter_rows(rows, [nobody, nobody], new[:0]), rows)
