"""Losses against their formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_giou
from cora.training.losses import giou_loss, l1_loss, sigmoid_focal_loss


def boxes(*shape: int, least: float, generator: torch.Generator) -> Tensor:
    return torch.cat(
        [torch.rand(*shape, 2, generator=generator), least + 0.5 * torch.rand(*shape, 2, generator=generator)], dim=-1
    )


@given(seed=st.integers(0, 2**16))
def test_focal_loss_is_the_formula_of_the_paper(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 7, generator=generator) * 5
    is_object = torch.rand(3, 7, generator=generator) < 0.3
    probability = logits.double().sigmoid()
    of_class = torch.where(is_object, probability, 1 - probability)
    weight = torch.where(is_object, 0.25, 0.75)
    expected = -weight * (1 - of_class) ** 2 * of_class.log()
    torch.testing.assert_close(sigmoid_focal_loss(logits, is_object).double(), expected, atol=1e-6, rtol=1e-5)


def test_focal_loss_is_finite_at_the_extremes_and_in_half_precision() -> None:
    logits = torch.tensor([-60000.0, 60000.0, 0.0], dtype=torch.float16).requires_grad_()
    loss = sigmoid_focal_loss(logits, torch.tensor([True, False, True]))
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


@given(seed=st.integers(0, 2**16), least=st.sampled_from([1e-3, 0.01, 0.1]))
def test_giou_loss_is_the_formula_of_the_paper_down_to_small_boxes(seed: int, least: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    found, wanted = (boxes(6, least=least, generator=generator) for _ in range(2))
    found[0] = wanted[0]
    found[1:3, 2:], wanted[1:3, 2:] = least, least
    expected = 1 - pairwise_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted)).diagonal()
    torch.testing.assert_close(giou_loss(found, wanted), expected, atol=1e-6, rtol=1e-5)


def test_giou_loss_keeps_leading_dimensions() -> None:
    found, wanted = (boxes(2, 3, least=0.1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(giou_loss(found, wanted)[1], giou_loss(found[1], wanted[1]))


def test_giou_loss_of_empty_boxes_is_finite_and_so_is_its_gradient() -> None:
    point = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.5, 0.0, 0.0]], requires_grad=True)
    loss = giou_loss(point, torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()


def test_box_losses() -> None:
    first, second = torch.rand(6, 4) * 0.5 + 0.2, torch.rand(6, 4) * 0.5 + 0.2
    torch.testing.assert_close(l1_loss(first, second), (first - second).abs().sum())
    assert float(giou_loss(first, first).sum()) == pytest.approx(0.0, abs=1e-5)
    assert float(l1_loss(first[:0], first[:0])) == float(giou_loss(first[:0], first[:0]).sum()) == 0.0
