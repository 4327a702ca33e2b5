"""Which classes count as alike, and what that lets queries match."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.structures import Targets
from cora.training.allowed_pairs import allowed_pairs, similar_classes


def test_without_rules_only_the_class_itself_is_alike() -> None:
    assert torch.equal(similar_classes(torch.ones(4, 3)), torch.eye(4, dtype=torch.bool))


def test_cosine_compares_directions_not_lengths() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.0, 1.0], [0.0, 0.0]])
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True
    assert torch.equal(similar_classes(embeddings, cosine=0.7), expected)


def test_either_rule_suffices() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = similar_classes(embeddings, cosine=0.7, groups=[0, 1, 1])
    assert found.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(-1, 1), st.integers(1, 4), st.integers(0, 99))
def test_likeness_is_mutual_and_grows_as_the_limit_falls(count: int, cosine: float, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, 6, generator=generator)
    ids = torch.randint(groups, (count,), generator=generator).tolist()
    similar = similar_classes(embeddings, cosine=cosine, groups=ids)
    assert torch.equal(similar, similar.T)
    assert similar.diagonal().all()
    assert (similar_classes(embeddings, cosine=cosine - 0.1, groups=ids) | ~similar).all()


def test_groups_are_for_all_classes() -> None:
    with pytest.raises(ValueError, match="expected one for each of 3 classes, got 2"):
        similar_classes(torch.ones(3, 2), groups=[0, 1])


def test_masks_are_queries_by_boxes() -> None:
    similar = similar_classes(torch.eye(3), groups=[0, 0, 1])
    targets = [
        Targets(boxes_cxcywh=torch.rand(2, 4), classes=torch.tensor([0, 2])),
        Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64)),
    ]
    first, second = allowed_pairs(torch.tensor([[1, 2, 0], [0, 1, 2]]), targets, similar)
    assert first.tolist() == [[True, False], [False, True], [True, False]]
    assert second.shape == (3, 0)
