"""Which cells learn, and what the loss is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.study.config import LossPart
from cora.study.loss import cell_iou, responsible_cells, study_loss
from cora.study.model import cell_centres


def grid(*, size: float = 0.2, targets: int = 1) -> Tensor:
    """Boxes of one size in 4 x 6 cells."""
    centres = cell_centres(4, 6)
    return torch.cat([centres, torch.full_like(centres, size)], dim=-1).expand(targets, -1, -1, -1).clone()


def random_boxes(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = 0.05 + 0.4 * torch.rand(*shape, 2, generator=generator)
    centre = size / 2 + (1 - size) * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre, size], dim=-1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999))
def test_iou_of_cells_is_that_of_pairs(seed: int) -> None:
    boxes, targets = random_boxes(3, 2, 5, seed=seed), random_boxes(3, seed=seed + 1)
    found = cell_iou(boxes, targets)
    for index in range(3):
        expected = pairwise_iou(cxcywh_to_xyxy(boxes[index].flatten(0, 1)), cxcywh_to_xyxy(targets[index : index + 1]))
        torch.testing.assert_close(found[index].flatten(), expected[:, 0])


def test_iou_is_of_what_lies_inside_the_image() -> None:
    reaching_out = torch.tensor([0.0, 0.5, 0.4, 0.2]).view(1, 1, 1, 4)
    assert float(cell_iou(reaching_out, torch.tensor([[0.1, 0.5, 0.2, 0.2]]))) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), radius=st.integers(0, 3), threshold=st.floats(0, 1))
def test_the_best_cell_learns_and_its_neighbours_if_it_is_good(seed: int, radius: int, threshold: float) -> None:
    boxes, targets = random_boxes(4, 5, 6, seed=seed), random_boxes(4, seed=seed + 1)
    cells = responsible_cells(boxes, targets, radius=radius, threshold=threshold)
    for mask, iou in zip(cells, cell_iou(boxes, targets), strict=True):
        row, column = divmod(int(iou.argmax()), 6)
        reach = radius if float(iou.max()) >= threshold else 0
        expected = torch.zeros(5, 6, dtype=torch.bool)
        if float(iou.max()) > 0:
            top, left = max(0, row - reach), max(0, column - reach)
            expected[top : row + reach + 1, left : column + reach + 1] = True
            assert torch.equal(mask, expected)
        assert int(mask.sum()) >= 1


def test_without_any_overlap_the_cell_of_the_centre_learns() -> None:
    boxes = grid(size=0.001)
    cells = responsible_cells(boxes, torch.tensor([[0.99, 0.3, 0.004, 0.004]]), radius=1, threshold=0.3)
    assert cells[0].nonzero().tolist() == [[1, 5]]


def test_perfect_boxes_cost_nothing() -> None:
    targets = random_boxes(3, seed=1)
    losses = study_loss(targets[:, None, None].expand(3, 4, 6, 4), targets, LossPart())
    assert float(losses["loss"]) == pytest.approx(0.0, abs=1e-5)
    assert float(losses["best_iou"]) == pytest.approx(1.0, abs=1e-5)


def test_loss_by_hand() -> None:
    boxes, target = grid(), torch.tensor([[0.25, 0.375, 0.2, 0.1]])  # the centre of row 1, column 1
    losses = study_loss(boxes, target, LossPart(radius=0, l1=3.0, giou=7.0))
    assert float(losses["best_iou"]) == pytest.approx(0.5)
    assert float(losses["l1"]) == pytest.approx(0.1)
    assert float(losses["giou"]) == pytest.approx(0.5)
    assert float(losses["loss"]) == pytest.approx(3 * 0.1 + 7 * 0.5)
    assert float(losses["cells"]) == 1.0


def test_every_box_counts_the_same_however_many_cells_learn() -> None:
    boxes, targets = grid(targets=2), torch.tensor([[0.25, 0.375, 0.2, 0.1], [0.75, 0.625, 0.02, 0.02]])
    config = LossPart(threshold=0.4)
    both = study_loss(boxes, targets, config)
    single = [study_loss(boxes[i : i + 1], targets[i : i + 1], config) for i in range(2)]
    assert float(single[0]["cells"]) == 9.0
    assert float(single[1]["cells"]) == 1.0
    assert float(both["loss"]) == pytest.approx(float(sum(one["loss"] for one in single)) / 2)


def test_order_of_boxes_does_not_matter() -> None:
    boxes, targets = random_boxes(5, 4, 6, seed=2), random_boxes(5, seed=3)
    order = torch.tensor([3, 1, 4, 0, 2])
    first, second = study_loss(boxes, targets, LossPart()), study_loss(boxes[order], targets[order], LossPart())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_gradients_reach_responsible_cells_only() -> None:
    boxes = random_boxes(2, 4, 6, seed=4).requires_grad_()
    targets = random_boxes(2, seed=5)
    study_loss(boxes, targets, LossPart())["loss"].backward()
    assert boxes.grad is not None
    cells = responsible_cells(boxes, targets, radius=1, threshold=0.3)
    assert torch.equal(boxes.grad.abs().sum(dim=-1) > 0, cells)
