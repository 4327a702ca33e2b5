"""Smooths the boxes of a track, so that they do not tremble with the detector's error in single frames."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Largest lag of a corner behind a steady motion, as a share of the box's side.
LAG = 0.03
#: Seconds over which the speed of each corner is averaged; the paper's cutoff of 1 Hz.
_SPEED_SECONDS = 1 / (2 * math.pi)

Corners = tuple[float, float, float, float]


class BoxSmoother:
    """The one-euro filter (Casiez, Roussel, Vogel: "1 € Filter", CHI 2012) over the corners of a track.

    A running mean of each coordinate, over `seconds` where it stands still and over less time the faster it moves:

        tau = seconds / (1 + seconds * speed / LAG),  weight of the new value = dt / (dt + tau),

    with the speed in sides of the box per second. A corner that moves steadily thus lags by `speed * tau < LAG` sides.
    In the paper's terms, the minimum cutoff is 1 / (2 pi seconds), and beta is 1 / (2 pi LAG).

    Args:
        seconds: time constant for boxes that stand still, above 0.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds: expected a number above 0, got {seconds}")
        self.seconds = seconds
        self._seen_at = 0.0
        self._seen: NDArray[np.float64] | None = None
        self._corners = self._speeds = np.zeros(4)

    def add(self, box_xyxy_px: Corners, seconds: float) -> Corners:
        """Add the box of one frame.

        Args:
            box_xyxy_px: corners in pixels.
            seconds: time of the frame, later than that of the last one.

        Returns:
            The smoothed box.
        """
        seen = np.array(box_xyxy_px, dtype=np.float64)
        passed = seconds - self._seen_at
        if self._seen is None or passed <= 0:
            self._corners, self._speeds = seen, np.zeros(4)
        else:
            sides = np.maximum(np.tile(self._corners[2:] - self._corners[:2], 2), 1.0)
            speeds = (seen - self._seen) / sides / passed
            self._speeds = self._speeds + (speeds - self._speeds) * passed / (passed + _SPEED_SECONDS)
            tau = self.seconds / (1 + self.seconds * np.abs(self._speeds) / LAG)
            self._corners = self._corners + (seen - self._corners) * passed / (passed + tau)
        self._seen, self._seen_at = seen, seconds
        left, top, right, bottom = self._corners.tolist()
        return left, top, right, bottom
