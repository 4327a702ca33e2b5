"""Turns and mirrors of display matrices."""

import struct

import numpy as np
import pytest

from cora.video.orientation import Orientation

ONE = 65_536


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def place(a: int, b: int, c: int, d: int) -> np.ndarray:
    """The image by the definition: the pixel at (x, y) goes to (ax + cy, bx + dy), all moved to start at 0."""
    source = np.arange(6, dtype=np.uint8).reshape(2, 3)
    rows, columns = np.indices(source.shape)
    x, y = (a * columns + c * rows) // ONE, (b * columns + d * rows) // ONE
    x, y = x - x.min(), y - y.min()
    target = np.zeros((y.max() + 1, x.max() + 1), np.uint8)
    target[y, x] = source
    return target


@pytest.mark.parametrize(
    "numbers",
    [
        *[(ONE, 0, 0, ONE), (0, ONE, -ONE, 0), (-ONE, 0, 0, -ONE), (0, -ONE, ONE, 0)],
        *[(-ONE, 0, 0, ONE), (ONE, 0, 0, -ONE), (0, ONE, ONE, 0), (0, -ONE, -ONE, 0)],
    ],
)
def test_all_eight(numbers: tuple[int, int, int, int]) -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    turned = Orientation.from_matrix(matrix(*numbers)).apply(picture)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned[..., 0], place(*numbers))


def test_small_angles_and_zeros_are_upright() -> None:
    assert Orientation.from_matrix(matrix(65_000, 5_000, -5_000, 65_000)) == Orientation()
    assert Orientation.from_matrix(bytes(36)) == Orientation()
