"""Matching is optimal among allowed pairs and never leaves them."""

from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cora.errors import TrainingError
from cora.training.losses import LossWeights
from cora.training.matching import assign, matching_cost


def hungarian(objectness: Tensor, boxes: Tensor, wanted: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    return assign(*matching_cost(objectness, boxes, wanted, LossWeights()), allowed)


def random_problem(seed: int, queries: int, targets: int, share: float = 0.5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    objectness = torch.randn(queries, generator=generator) * 3
    boxes = torch.rand(queries, 4, generator=generator) * 0.5 + 0.2
    wanted = torch.rand(targets, 4, generator=generator) * 0.5 + 0.2
    allowed = torch.rand(queries, targets, generator=generator) < share
    return objectness, boxes, wanted, allowed


def brute_force(cost: Tensor, giou: Tensor, allowed: Tensor) -> tuple[int, float]:
    """Most pairs, then least cost, over every injective choice."""
    queries, targets = cost.shape
    reachable = [t for t in range(targets) if bool((allowed[:, t] & (giou[:, t] > 0)).any())]
    for size in range(min(queries, len(reachable)), 0, -1):
        costs = [
            sum(float(cost[q, t]) for q, t in zip(rows, chosen, strict=True))
            for chosen in combinations(reachable, size)
            for rows in permutations(range(queries), size)
            if all(bool(allowed[q, t]) for q, t in zip(rows, chosen, strict=True))
        ]
        if costs:
            return size, min(costs)
    return 0, 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    queries=st.integers(1, 5),
    targets=st.integers(0, 4),
    share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
)
def test_optimal_and_allowed(seed: int, queries: int, targets: int, share: float) -> None:
    objectness, boxes, wanted, allowed = random_problem(seed, queries, targets, share)
    before = [value.clone() for value in (objectness, boxes, wanted, allowed)]
    query, target = hungarian(objectness, boxes, wanted, allowed)
    assert all(torch.equal(a, b) for a, b in zip(before, (objectness, boxes, wanted, allowed), strict=True))
    assert query.dtype == target.dtype == torch.int64
    assert bool(allowed[query, target].all())
    assert len(query.unique()) == len(target.unique()) == len(query)
    cost, giou = matching_cost(objectness, boxes, wanted, LossWeights())
    size, best = brute_force(cost, giou, allowed)
    assert len(query) == size
    assert float(cost[query, target].sum()) == pytest.approx(best, abs=1e-4)


def test_a_box_that_no_allowed_query_overlaps_is_left_out() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]])
    wanted = torch.tensor([[0.9, 0.9, 0.1, 0.1]])
    everything = torch.ones(2, 1, dtype=torch.bool)
    assert hungarian(torch.zeros(2), boxes, wanted, everything)[0].tolist() == [1]
    far_only = torch.tensor([[True], [False]])
    assert hungarian(torch.zeros(2), boxes, wanted, far_only)[0].tolist() == []


def test_query_order_does_not_matter() -> None:
    objectness, boxes, wanted, allowed = random_problem(3, 20, 6)
    order = torch.randperm(20)
    query, target = hungarian(objectness, boxes, wanted, allowed)
    other_query, other_target = hungarian(objectness[order], boxes[order], wanted, allowed[order])
    assert set(zip(query.tolist(), target.tolist(), strict=True)) == set(
        zip(order[other_query].tolist(), other_target.tolist(), strict=True)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_stop_training(value: float) -> None:
    objectness, boxes, wanted, allowed = random_problem(0, 4, 2)
    boxes[1, 2] = value
    with pytest.raises(TrainingError, match="expected finite objectness and boxes"):
        hungarian(objectness, boxes, wanted, allowed)


def test_a_mask_of_another_shape_or_type_is_refused() -> None:
    cost = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"expected bool of shape \[3, 2\], got torch.bool of shape \[2, 3\]"):
        assign(cost, cost, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got torch.float32"):
        assign(cost, cost, torch.ones(3, 2))
