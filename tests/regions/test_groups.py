"""Class groups: what spherical k-means promises whatever the embeddings are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.regions import Vocabulary
from cora.regions.groups import class_groups, spherical_kmeans, two_levels


def directions(count: int, seed: int, dim: int = 6) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def partition(labels: Tensor) -> set[frozenset[int]]:
    return {frozenset((labels == label).nonzero()[:, 0].tolist()) for label in labels.unique()}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.data(), st.integers(0, 99))
def test_every_group_has_members_and_numbers_follow_the_names(count: int, data: st.DataObject, seed: int) -> None:
    groups = data.draw(st.integers(1, count))
    found = spherical_kmeans(directions(count, seed), groups, seed=seed, restarts=2)
    assert found.labels.unique().tolist() == list(range(groups))
    firsts = [int((found.labels == group).nonzero()[0, 0]) for group in range(groups)]
    assert firsts == sorted(firsts)
    torch.testing.assert_close(found.centres.norm(dim=-1), torch.ones(groups, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(0, 99))
def test_nobody_is_closer_to_another_centre_and_centres_are_means(count: int, seed: int) -> None:
    vectors = directions(count, seed)
    found = spherical_kmeans(vectors, max(1, count // 3), seed=seed)
    own = (vectors.double() * found.centres[found.labels]).sum(dim=-1)
    assert ((vectors.double() @ found.centres.T).amax(dim=1) <= own + 1e-9).all()
    for group, centre in enumerate(found.centres):
        mean = vectors.double()[found.labels == group].mean(dim=0)
        torch.testing.assert_close(F.normalize(mean, dim=-1), centre)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 15), st.integers(0, 99))
def test_length_and_rounding_of_embeddings_do_not_count(count: int, seed: int) -> None:
    vectors = directions(count, seed)
    lengths = 0.1 + 5 * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed))
    groups = max(1, count // 2)
    first, second = (spherical_kmeans(v, groups, seed=3) for v in (vectors, vectors * lengths))
    assert torch.equal(first.labels, second.labels)


def test_the_seed_decides() -> None:
    vectors = directions(40, 0)
    assert torch.equal(spherical_kmeans(vectors, 7, seed=5).labels, spherical_kmeans(vectors, 7, seed=5).labels)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    spherical_kmeans(vectors, 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_more_restarts_are_never_worse() -> None:
    vectors = directions(60, 1)
    cosines = [spherical_kmeans(vectors, 8, seed=0, restarts=restarts).cosine for restarts in (1, 3, 10)]
    assert cosines == sorted(cosines)


def test_clear_groups_are_found_in_any_order_of_the_names() -> None:
    centres = torch.eye(4, 8)
    vectors = torch.cat([F.normalize(centre + 0.05 * directions(5, seed, 8), dim=-1) for seed, centre in
                         enumerate(centres)])  # fmt: skip
    wanted = {frozenset(range(5 * i, 5 * i + 5)) for i in range(4)}
    assert partition(spherical_kmeans(vectors, 4).labels) == wanted
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = spherical_kmeans(vectors[order], 4).labels
    assert partition(shuffled[order.argsort()]) == wanted


def test_as_many_groups_as_classes_keep_every_class_alone() -> None:
    assert spherical_kmeans(directions(9, 2), 9).labels.tolist() == list(range(9))


def test_duplicates_still_fill_all_groups() -> None:
    assert spherical_kmeans(torch.ones(5, 3), 3).labels.unique().tolist() == [0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.data(), st.integers(0, 99))
def test_subgroups_divide_groups(count: int, subgroups: int, data: st.DataObject, seed: int) -> None:
    groups = data.draw(st.integers(1, count))
    vectors = directions(count, seed)
    levels = two_levels(vectors, groups, subgroups, seed=seed)
    assert torch.equal(levels.coarse.labels, spherical_kmeans(vectors, groups, seed=seed).labels)
    assert torch.equal(levels.parents[levels.fine.labels], levels.coarse.labels)
    assert levels.parents.tolist() == sorted(levels.parents.tolist())
    assert levels.fine.labels.unique().tolist() == list(range(len(levels.parents)))
    members = levels.coarse.labels.bincount()
    assert levels.parents.bincount().tolist() == members.clamp(max=subgroups).tolist()
    assert levels.fine.cosine >= levels.coarse.cosine - 1e-9


def test_one_subgroup_is_the_group_itself() -> None:
    levels = two_levels(directions(12, 3), 4, 1)
    assert torch.equal(levels.fine.labels, levels.coarse.labels)
    torch.testing.assert_close(levels.fine.centres, levels.coarse.centres)


def test_groups_come_by_name() -> None:
    vocabulary = Vocabulary(("cat", "kitten", "bus"), torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
    assert class_groups(vocabulary, 2) == {"cat": 0, "kitten": 0, "bus": 1}


@pytest.mark.parametrize("count", [0, 4])
def test_impossible_numbers_of_groups_are_refused(count: int) -> None:
    with pytest.raises(VocabularyError, match=f"expected 1 to 3 groups of 3 classes, got {count}"):
        spherical_kmeans(torch.eye(3), count)


def test_an_embedding_without_a_direction_is_refused() -> None:
    with pytest.raises(VocabularyError, match="length 0"):
        spherical_kmeans(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1)
