"""Anchors cover the image at the start, and logits are undone by the sigmoid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cora.errors import ModelError
from cora.localizer import grid_anchors, kmeans_anchors
from cora.localizer.anchors import LearnedAnchors, inverse_sigmoid


@given(count=st.integers(1, 1200))
def test_grids_have_exactly_the_number_asked_for(count: int) -> None:
    anchors = grid_anchors(count)
    assert anchors.shape == (count, 4)
    assert anchors.min() > 0
    assert anchors.max() < 1


@pytest.mark.parametrize("count", [100, 300, 1000])
def test_grids_have_distinct_anchors_of_every_scale(count: int) -> None:
    anchors = grid_anchors(count)
    assert len(anchors.unique(dim=0)) == count
    sizes, numbers = anchors[:, 2].unique(return_counts=True)
    assert len(sizes) == 4
    assert numbers.tolist() == sorted(numbers.tolist(), reverse=True)
    torch.testing.assert_close(anchors[:, :2].mean(dim=0), torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_kmeans_finds_clusters() -> None:
    centres = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.8, 0.8], [0.8, 0.2, 0.3, 0.1]])
    boxes = centres.repeat(20, 1) + 0.01 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    found = kmeans_anchors(boxes, 12)
    assert torch.cdist(found, centres).min(dim=0).values.max() < 0.03
    assert torch.equal(found, kmeans_anchors(boxes, 12))
    with pytest.raises(ModelError, match="expected at least 70 boxes to place 70 anchors, got 60"):
        kmeans_anchors(boxes, 70)


def test_learned_anchors_start_where_told() -> None:
    anchors = LearnedAnchors(count=9)
    boxes = torch.rand(9, 4) * 0.9 + 0.05
    anchors.start_from(boxes)
    torch.testing.assert_close(anchors(2), boxes.expand(2, -1, -1))
    with pytest.raises(ModelError, match=r"expected \[9, 4\], got \[5, 4\]"):
        anchors.start_from(boxes[:5])


@given(value=st.floats(0, 1), margin=st.sampled_from([1e-3, 1e-5]))
def test_inverse_sigmoid(value: float, margin: float) -> None:
    found = inverse_sigmoid(torch.tensor(value, dtype=torch.float64), margin=margin)
    assert torch.isfinite(found)
    if margin <= value <= 1 - margin:
        assert float(found.sigmoid()) == pytest.approx(value)
