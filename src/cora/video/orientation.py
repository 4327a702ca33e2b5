"""Turns frames upright, as the display matrix says that cameras and phones write into videos."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror an image: first swap the axes, then mirror.

    Attributes:
        swap: rows become columns.
        mirror: left becomes right.
        flip: top becomes bottom.
    """

    swap: bool = False
    mirror: bool = False
    flip: bool = False

    @classmethod
    def from_matrix(cls, matrix: bytes) -> Orientation:
        """The orientation that is nearest to a display matrix; a matrix of zeros means upright.

        Args:
            matrix: nine 32-bit integers a, b, u, c, d, ..., which map (x, y) to (ax + cy, bx + dy).
        """
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(swap=True, mirror=c < 0, flip=b < 0)
        return cls(mirror=a < 0, flip=d < 0)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image turned upright: [H, W, 3], or [W, H, 3] after a quarter turn."""
        if self.swap:
            pixels = pixels.transpose(1, 0, 2)
        if self.mirror:
            pixels = pixels[:, ::-1]
        if self.flip:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)
