"""Attention in half precision on a CPU: plain products in blocks, the same as in float32 but for rounding."""

from __future__ import annotations

import pytest
import torch

from cora.localizer import attention
from cora.localizer.attention import attend
from tests.tolerances import assert_near


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys", "width"), [(5, 7, 8), (600, 33, 8), (256, 300, 16), (257, 1, 8)])
def test_blocks_are_the_whole(queries: int, keys: int, width: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, count, 16, generator=generator).bfloat16() for count in (queries, keys))
    value = torch.randn(2, 3, keys, width, generator=generator).bfloat16()
    visible = None
    if masked:
        visible = torch.rand(2, 1, 1, keys, generator=generator) < 0.7
        visible[..., 0] = True
    with torch.no_grad():
        found = attend(query, key, value, visible=visible, dropout=0.0)
    wanted = attend(query.float(), key.float(), value.float(), visible=visible, dropout=0.0)
    assert found.dtype == torch.bfloat16
    assert found.shape == (2, queries, 3 * width)
    assert_near(found.float(), wanted, computed_in=torch.bfloat16)


def test_a_key_that_is_not_visible_is_not_looked_at() -> None:
    query, key, value = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    visible = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    with torch.no_grad():
        before = attend(query, key, value, visible=visible, dropout=0.0)
        value[:, :, -1] += 100.0
        after = attend(query, key, value, visible=visible, dropout=0.0)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert not torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("training", [False, True])
def test_float32_and_training_take_the_fused_kernel(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_attend_in_blocks", lambda *_: pytest.fail("blocks"))
    query = torch.randn(1, 2, 9, 8)
    if training:
        query = query.bfloat16()
    with torch.set_grad_enabled(training):
        assert attend(query, query, query, visible=None, dropout=0.0).shape == (1, 9, 16)


def test_inference_in_bfloat16_takes_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(attention, "_attend_in_blocks", lambda *inputs: taken.append(inputs))
    query = torch.randn(1, 2, 9, 8).bfloat16()
    with torch.inference_mode():
        attend(query, query, query, visible=None, dropout=0.0)
    assert len(taken) == 1
