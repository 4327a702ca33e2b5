"""The fast alignment: nothing at the start, a linear difference is found, few regions bend nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cora.regions import AlignmentFit, FastAlignment
from cora.regions.fast_alignment import features
from tests.tolerances import assert_near

WIDTH = 16


def regions(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fast = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)
    return fast, 0.05 + 0.9 * torch.rand(count, 4, generator=generator)


def drawn(seed: int = 1, size: float = 0.05) -> FastAlignment:
    alignment, generator = FastAlignment(embed_dim=WIDTH), torch.Generator().manual_seed(seed)
    for value in alignment.parameters():
        value.copy_(size * torch.randn(value.shape, generator=generator))
    return alignment


def test_at_the_start_it_changes_nothing() -> None:
    fast, boxes = regions(50)
    torch.testing.assert_close(FastAlignment(embed_dim=WIDTH)(fast, boxes), fast, atol=1e-6, rtol=0)


def test_it_is_never_trained_by_descent() -> None:
    assert not any(value.requires_grad for value in FastAlignment(embed_dim=WIDTH).parameters())


def test_a_linear_difference_is_found_from_many_regions_in_pieces() -> None:
    truth, fit = drawn(), AlignmentFit(FastAlignment(embed_dim=WIDTH))
    fast, boxes = regions(40_000)
    exact = fast + truth.shift(features(fast, boxes))
    for part in range(0, len(fast), 7_000):
        rows = slice(part, part + 7_000)
        fit.add(fast[rows], exact[rows], boxes[rows])
    found = fit.solve()
    new, places = regions(500, seed=9)
    wanted = F.normalize(new + truth.shift(features(new, places)), dim=-1)
    before, after = (new * wanted).sum(dim=-1).mean(), (found(new, places) * wanted).sum(dim=-1).mean()
    assert before < 0.99
    assert after > 0.9995


def test_no_region_leaves_the_start() -> None:
    start = drawn()
    found = AlignmentFit(start).solve()
    assert found is not start
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in found.state_dict().items())


def test_solving_twice_is_solving_once() -> None:
    fit = AlignmentFit(drawn(seed=3))
    fast, boxes = regions(500)
    fit.add(fast, fast + drawn().shift(features(fast, boxes)), boxes)
    first, second = fit.solve(), fit.solve()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_few_regions_bend_it_less_than_many() -> None:
    moved = []
    for count in (20, 20_000):
        fit = AlignmentFit(FastAlignment(embed_dim=WIDTH))
        fast, boxes = regions(count)
        fit.add(fast, fast + drawn().shift(features(fast, boxes)), boxes)
        moved.append(float(fit.solve().shift.weight.norm()))
    assert 0 < moved[0] < 0.5 * moved[1]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), tiny=st.booleans())
def test_results_are_unit_and_finite_for_any_box(seed: int, tiny: bool) -> None:
    fast, boxes = regions(8, seed)
    if tiny:
        boxes = boxes * torch.tensor([1.0, 1.0, 0.0, 0.0])
    moved = drawn(seed)(fast, boxes)
    assert_near(moved.norm(dim=-1), torch.ones(8))


@pytest.mark.parametrize("shape", [(2, 3), (0,), (5,)])
def test_leading_shapes(shape: tuple[int, ...]) -> None:
    fast, boxes = torch.randn(*shape, WIDTH), torch.rand(*shape, 4)
    assert drawn()(fast, boxes).shape == (*shape, WIDTH)
