"""Properties of box formats and overlaps."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cora.boxes import (
    aligned_iou,
    clip_to_image,
    cxcywh_to_xyxy,
    pairwise_giou,
    pairwise_iou,
    scale_to_pixels,
    xyxy_to_cxcywh,
)

unit = st.floats(0.0, 1.0, width=32)


@st.composite
def boxes(draw: st.DrawFn, *, count: int | None = None) -> Tensor:
    """[N, 4] cxcywh in 0..1."""
    size = draw(st.integers(1, 6)) if count is None else count
    rows = draw(st.lists(st.tuples(unit, unit, unit, unit), min_size=size, max_size=size))
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


@given(boxes())
def test_formats_are_inverses(boxes_cxcywh: Tensor) -> None:
    found = xyxy_to_cxcywh(cxcywh_to_xyxy(boxes_cxcywh))
    torch.testing.assert_close(found, boxes_cxcywh, atol=1e-6, rtol=0)


@given(boxes(), boxes())
def test_pairwise_overlaps_are_bounded_and_symmetric(first: Tensor, second: Tensor) -> None:
    first, second = cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)
    iou, giou = pairwise_iou(first, second), pairwise_giou(first, second)
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all()
    assert ((giou >= -1 - 1e-5) & (giou <= iou + 1e-4)).all()
    torch.testing.assert_close(iou, pairwise_iou(second, first).T)
    torch.testing.assert_close(giou, pairwise_giou(second, first).T)


@given(boxes(count=4), boxes(count=4))
def test_aligned_overlaps_are_the_diagonal_of_the_pairwise(first: Tensor, second: Tensor) -> None:
    # Degenerate boxes have no meaningful overlap; both forms only promise finite values there.
    first[:, 2:] += 0.01
    second[:, 2:] += 0.01
    first, second = cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)
    torch.testing.assert_close(aligned_iou(first, second), pairwise_iou(first, second).diagonal())


@given(boxes())
def test_a_box_overlaps_itself_fully(boxes_cxcywh: Tensor) -> None:
    boxes_cxcywh[:, 2:] += 0.01
    corners = cxcywh_to_xyxy(boxes_cxcywh)
    ones = torch.ones(len(corners))
    torch.testing.assert_close(aligned_iou(corners, corners), ones)


def test_empty_boxes_overlap_nothing() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    for overlap in (pairwise_iou, pairwise_giou, aligned_iou):
        assert torch.isfinite(overlap(point, point)).all()
    assert pairwise_iou(torch.zeros(0, 4), point).shape == (0, 1)


def test_scale_to_pixels_takes_height_then_width() -> None:
    relative = torch.tensor([[0.5, 0.5, 1.0, 0.5]])
    assert scale_to_pixels(relative, (100, 200)).tolist() == [[0.0, 25.0, 200.0, 75.0]]
    batched = scale_to_pixels(relative.expand(2, 1, 4), torch.tensor([[100, 200], [10, 20]]))
    assert batched[1].tolist() == [[0.0, 2.5, 20.0, 7.5]]


def test_clip_to_image() -> None:
    outside = torch.tensor([[-5.0, -1.0, 300.0, 90.0]])
    assert clip_to_image(outside, (100, 200)).tolist() == [[0.0, 0.0, 200.0, 90.0]]


def test_aligned_overlap_has_a_gradient() -> None:
    first = torch.tensor([[0.0, 0.0, 0.5, 0.5]], requires_grad=True)
    aligned_iou(first, torch.tensor([[0.2, 0.2, 0.6, 0.6]])).sum().backward()
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
