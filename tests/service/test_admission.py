"""Never more than the capacity, and everything is given back."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cora.service.admission import Admission
from cora.service.refusal import RefusedError


@given(st.integers(1, 20), st.lists(st.integers(1, 8), max_size=30))
def test_capacity_holds(capacity: int, sizes: list[int]) -> None:
    admission = Admission(capacity=capacity)
    with ExitStack() as stack:
        expected = 0
        for size in sizes:
            if expected + size <= capacity:
                stack.enter_context(admission.request()).grow(size)
                expected += size
            else:
                with pytest.raises(RefusedError) as refused, admission.request() as place:
                    place.grow(size)
                assert refused.value.status == 429
                assert 1 <= (refused.value.retry_after_s or 0) <= 60
            assert admission.taken == expected
    assert admission.taken == 0


def test_failing_requests_give_their_place_back() -> None:
    admission = Admission(capacity=2)
    with pytest.raises(ValueError, match="broken"), admission.request():
        raise ValueError("broken")
    assert admission.taken == 0


def test_time_to_wait_follows_the_model() -> None:
    admission = Admission(capacity=100)
    with admission.request() as place:
        place.grow(40)
        for _ in range(50):
            admission.note(4, 8.0)
        assert admission.retry_after_s == 40
        for _ in range(50):
            admission.note(4, 0.04)
        assert admission.retry_after_s == 1
