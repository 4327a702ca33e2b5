"""Where labels go: beside their boxes, off each other, and off the objects as far as there is room."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first pixels outside."""

IntArray = NDArray[np.int64]

#: What a place further down the list must save, in shares of a hidden box, to be taken before a usual one.
_PRICE_OF_UNUSUAL = 0.05


class Places:
    """Places of the labels of one image, given out one by one, best box first.

    Args:
        frames: the boxes of the image, which labels should not hide.
        width: of the image in pixels; labels stay inside.
        height: of the image in pixels.
    """

    def __init__(self, *, frames: list[Box], width: int, height: int) -> None:
        self._frames = np.array(frames, dtype=np.int64).reshape(-1, 4)
        self._sizes = (self._frames[:, 2:] - self._frames[:, :2]).prod(axis=1).clip(min=1)
        self._taken = np.zeros((0, 4), dtype=np.int64)
        self._limits = (width, height)

    def find(self, frame: Box, size: tuple[int, int]) -> tuple[Box, int]:
        """The best place for a label of `size` (width, height), and how many pixels of other labels it hides."""
        found = self._best(_usual(frame, size), size)
        if found[1] == 0:
            return found
        return min(found, self._best(_unusual(frame, size), size), key=lambda place: place[1])

    def _best(self, candidates: Iterator[tuple[int, int]], size: tuple[int, int]) -> tuple[Box, int]:
        places = self._inside(np.array(list(candidates), dtype=np.int64), size)
        hidden = _overlaps(places, self._taken[_near(places, self._taken)]).sum(axis=1)
        near = _near(places, self._frames)
        covered = (_overlaps(places, self._frames[near]) / self._sizes[near]).sum(axis=1)
        cost = covered + _PRICE_OF_UNUSUAL * np.arange(len(places))
        best = int(np.lexsort((cost, hidden))[0])
        left, top, right, bottom = places[best].tolist()
        return (left, top, right, bottom), int(hidden[best])

    def take(self, place: Box) -> None:
        """Later labels avoid this place."""
        self._taken = np.concatenate([self._taken, np.array([place], dtype=np.int64)])

    def _inside(self, corners: IntArray, size: tuple[int, int]) -> IntArray:
        room = np.array([max(0, limit - side) for limit, side in zip(self._limits, size, strict=True)])
        corners = corners.clip(min=0, max=room)
        return np.concatenate([corners, corners + np.array(size)], axis=1)


def _usual(frame: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Left top corners: above the frame, inside its top, below it, inside its bottom, each at the left, then right."""
    left, top, right, bottom = frame
    rows = (top - size[1], top, bottom, bottom - size[1])
    yield from ((column, row) for row, column in product(rows, (left, right - size[0])))


def _unusual(frame: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Left top corners further and further away from the top of the frame."""
    left, top, right, _ = frame
    for step in range(1, 9):
        for row in (top + step * size[1], top - (step + 1) * size[1]):
            yield from ((column, row) for column in (left, right - size[0], right, left - size[0]))


def _near(places: IntArray, others: IntArray) -> NDArray[np.bool_]:
    """[K] whether a box of `others` meets the smallest box around all `places`."""
    low, high = places[:, :2].min(axis=0), places[:, 2:].max(axis=0)
    met: NDArray[np.bool_] = ((others[:, 2:] > low) & (others[:, :2] < high)).all(axis=1)
    return met


def _overlaps(places: IntArray, others: IntArray) -> IntArray:
    """Pixels [M, K] that boxes [M, 4] and [K, 4] share."""
    wide = np.minimum(places[:, None, 2], others[None, :, 2]) - np.maximum(places[:, None, 0], others[None, :, 0])
    high = np.minimum(places[:, None, 3], others[None, :, 3]) - np.maximum(places[:, None, 1], others[None, :, 1])
    shared: IntArray = wide.clip(min=0) * high.clip(min=0)
    return shared
