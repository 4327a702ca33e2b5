"""Losses against their formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as reference_focal_loss

from cora.boxes import cxcywh_to_xyxy
from cora.training.losses import giou_loss, l1_loss, sigmoid_focal_loss


@given(seed=st.integers(0, 2**16))
def test_focal_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, is_object = (
        torch.randn(3, 7, generator=generator) * 5,
        torch.rand(3, 7, generator=generator) < 0.3,
    )
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, is_object),
        reference_focal_loss(logits, is_object.float(), alpha=0.25, gamma=2),
    )


def test_focal_loss_is_finite_at_the_extremes_and_in_half_precision() -> None:
    logits = torch.tensor([-60000.0, 60000.0, 0.0], dtype=torch.float16).requires_grad_()
    loss = sigmoid_focal_loss(logits, torch.tensor([True, False, True]))
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_box_losses() -> None:
    first, second = torch.rand(6, 4) * 0.5 + 0.2, torch.rand(6, 4) * 0.5 + 0.2
    torch.testing.assert_close(l1_loss(first, second), (first - second).abs().sum())
    reference = generalized_box_iou_loss(cxcywh_to_xyxy(first), cxcywh_to_xyxy(second), reduction="sum")
    torch.testing.assert_close(giou_loss(first, second), reference, atol=1e-4, rtol=1e-4)
    assert float(giou_loss(first, first)) == pytest.approx(0.0, abs=1e-5)
    assert float(l1_loss(first[:0], first[:0])) == float(giou_loss(first[:0], first[:0])) == 0.0
