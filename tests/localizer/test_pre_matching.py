"""Pre-matching picks the nearest class, and weights act on probabilities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cora.errors import VocabularyError
from cora.localizer import pre_match


@given(seed=st.integers(0, 2**16))
def test_nearest_class_whatever_the_lengths(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randn(2, 5, 8, generator=generator)
    classes = torch.randn(4, 8, generator=generator)
    found = pre_match(regions, classes)
    cosine = torch.cosine_similarity(regions[:, :, None], classes[None, None], dim=-1)
    assert torch.equal(found, cosine.argmax(dim=-1))
    assert torch.equal(found, pre_match(3 * regions, 0.5 * classes))
    assert torch.equal(found, pre_match(regions, classes, torch.ones(4)))
    order = torch.randperm(4, generator=generator)
    assert torch.equal(order[pre_match(regions, classes[order])], found)


def test_weights_multiply_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    regions, classes = torch.randn(1, 200, 64, generator=generator), torch.randn(6, 64, generator=generator)
    weights = torch.tensor([8.0, 1.0, 1.0, 8.0, 1.0, 0.5])
    cosine = torch.cosine_similarity(regions[:, :, None], classes[None, None], dim=-1)
    expected = ((100 * cosine).softmax(dim=-1) * weights).argmax(dim=-1)
    assert torch.equal(pre_match(regions, classes, weights), expected)
    # Cosines below zero are favoured by a large weight too.
    huge = torch.tensor([1e30, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert bool((pre_match(regions, classes, huge, logit_scale=1.0) == 0).all())


def test_top_k_gives_pairs_of_anchor_and_class() -> None:
    regions, classes = torch.randn(2, 3, 8), torch.randn(5, 8)
    found = pre_match(regions, classes, top_k=2)
    assert found.shape == (2, 6)
    assert torch.equal(found[:, ::2], pre_match(regions, classes))
    again = pre_match(regions.repeat_interleave(2, dim=1), classes)
    assert torch.equal(found[:, ::2], again[:, ::2])
    assert not (found[:, ::2] == found[:, 1::2]).any()


def test_what_cannot_be_matched_is_refused() -> None:
    regions, classes = torch.randn(1, 3, 8), torch.randn(2, 8)
    with pytest.raises(VocabularyError, match="number of classes = 2, got 3"):
        pre_match(regions, classes, top_k=3)
    with pytest.raises(VocabularyError, match="number of classes = 0, got 1"):
        pre_match(regions, classes[:0])
    with pytest.raises(VocabularyError, match=r"expected one for each of 2 classes, got \[3\]"):
        pre_match(regions, classes, torch.ones(3))
    with pytest.raises(VocabularyError, match="expected numbers above 0, got 0"):
        pre_match(regions, classes, torch.tensor([1.0, 0.0]))
