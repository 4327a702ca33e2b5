"""Boxes around polygons and masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask

from cora.data.outlines import box_of_outline

POINTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=6)


@given(polygons=st.lists(POINTS, min_size=1, max_size=3))
def test_a_box_reaches_to_all_points(polygons: list[list[tuple[int, int]]]) -> None:
    flat = [[number for point in polygon for number in point] for polygon in polygons]
    xs, ys = zip(*(point for polygon in polygons for point in polygon), strict=True)
    expected = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    assert box_of_outline(flat) == expected
    if len(flat) == 1:
        assert box_of_outline(flat[0]) == expected


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_masks_packed_and_not_have_the_box_of_their_pixels(height: int, width: int, seed: int, share: float) -> None:
    pixels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    packed = mask.encode(np.asfortranarray(pixels))["counts"].decode()
    flat = pixels.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    ys, xs = np.nonzero(pixels)
    expected = None
    if len(xs):
        expected = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
    for counts in (packed, runs):
        assert box_of_outline({"size": [height, width], "counts": counts}) == expected


@pytest.mark.parametrize(
    "outline",
    [
        *(None, [], [[]], [[1, 2]], [[1, 2, 3]], [["1", 2, 3, 4]], [[1, 2, float("nan"), 4]], "mask", 3, {}),
        *({"size": [4, 4]}, {"size": [4], "counts": [1, 2]}, {"size": [2, 2], "counts": [1, 9]}),
        *({"size": [2, 2], "counts": [-1, 2]}, {"size": [2, 2], "counts": "\x00"}, {"size": [2, 2], "counts": [4]}),
        *({"size": [2, 2], "counts": "o" * 99}, {"size": ["2", 2], "counts": [0, 4]}),
    ],
)
def test_what_is_no_outline_has_no_box(outline: object) -> None:
    assert box_of_outline(outline) is None
