"""Class sampling: those present first, none twice, no box lost."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cora.training.class_sampling import sample_classes


@given(st.lists(st.integers(0, 19), max_size=30), st.integers(1, 30))
def test_present_classes_come_first_and_others_fill_up(present: list[int], wanted: int) -> None:
    drawn = sample_classes(torch.tensor(present, dtype=torch.int64), 20, wanted).tolist()
    assert len(set(drawn)) == len(drawn) == min(20, max(wanted, len(set(present))))
    assert set(present) <= set(drawn) <= set(range(20))
    if wanted < 20:
        assert set(drawn[: len(set(present))]) == set(present)


def test_all_classes_in_order_without_a_limit() -> None:
    assert sample_classes(torch.tensor([3]), 5, None).tolist() == list(range(5))


def test_every_absent_class_is_drawn_as_often() -> None:
    torch.manual_seed(0)
    drawn = torch.cat([sample_classes(torch.tensor([0, 0]), 10, 4) for _ in range(900)]).bincount(minlength=10)
    assert drawn[0] == 900
    # 3 of 9 absent ones: 300 each, with a standard deviation of 14.
    assert ((drawn[1:] - 300).abs() < 70).all()
