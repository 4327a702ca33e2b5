"""Packed pyramids: packing and unpacking undo each other, padding goes along."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.pyramid import STRIDES, PyramidLayout

LEVELS = st.lists(st.tuples(st.sampled_from(STRIDES), st.integers(1, 3)), min_size=1, max_size=5).filter(
    lambda levels: any(stride <= 32 for stride, _ in levels)
)


def maps_of(layout: PyramidLayout, height: int, width: int) -> list[torch.Tensor]:
    """Random maps of every level for height x width cells of 32 pixels."""
    return [
        torch.randn(2, channels, -(-height * 32 // stride), -(-width * 32 // stride))
        for stride, channels in layout.levels
    ]


@settings(max_examples=50, deadline=None)
@given(levels=LEVELS, height=st.integers(1, 5), width=st.integers(1, 5))
def test_unpacking_undoes_packing(levels: list[tuple[int, int]], height: int, width: int) -> None:
    layout = PyramidLayout(tuple(levels))
    maps = maps_of(layout, height, width)
    packed = layout.pack(maps)
    assert packed.shape == (2, layout.packed_channels, height, width)
    more = torch.cat([packed, torch.randn(2, 2, height, width)], dim=1)  # what lies behind is left alone
    for one, back in zip(maps, layout.unpack(more), strict=True):
        assert torch.equal(one, back)
    assert torch.equal(layout.pack(layout.unpack(packed)), packed)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), below=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_of_every_level(height: int, width: int, below: int, right: int) -> None:
    layout = PyramidLayout(((8, 1), (16, 1), (32, 1), (64, 1), (128, 1)))
    mask = torch.ones(1, height + below, width + right, dtype=torch.bool)
    mask[:, :height, :width] = False
    inside = maps_of(layout, height, width)
    for padding, one, whole in zip(
        layout.unpack_mask(mask), inside, maps_of(layout, height + below, width + right), strict=True
    ):
        rows, columns = one.shape[-2:]
        assert padding.shape[-2:] == whole.shape[-2:]
        assert not padding[:, :rows, :columns].any()
        assert padding[:, rows:].all()
        assert padding[:, :, columns:].all()


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), below=st.integers(0, 2), right=st.integers(0, 2))
def test_cutting_a_packed_map_cuts_its_levels(height: int, width: int, below: int, right: int) -> None:
    layout = PyramidLayout(((8, 2), (16, 1), (32, 3), (64, 2), (128, 1)))
    packed = layout.pack(maps_of(layout, height + below, width + right))
    whole, part = layout.unpack(packed), layout.unpack(packed[:, :, :height, :width])
    for one, cut in zip(whole, part, strict=True):
        assert torch.equal(one[:, :, : cut.shape[2], : cut.shape[3]], cut)


@pytest.mark.parametrize("levels", [((12, 3),), ((8, 0),)])
def test_impossible_levels(levels: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected strides of .* and channels above 0"):
        PyramidLayout(levels)
