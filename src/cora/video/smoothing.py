"""The box of a track by its history: what a detector wavers by from frame to frame is no motion."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Share of a box's side that a corner lags behind a motion that goes on, at most.
LAG = 0.03
#: Seconds over which speeds are averaged, those of the corners apart from each other; 1 Hz in the paper.
_SPEED_SECONDS = 1 / (2 * math.pi)

Corners = tuple[float, float, float, float]


class BoxSmoother:
    """The one-euro filter (Casiez, Roussel, Vogel: "1 € Filter", CHI 2012) over the corners of a track.

    A mean of the past that forgets: in `seconds` for a side that stands still, in less the faster it moves,

        tau = seconds / (1 + seconds * speed / LAG),  share of the new corner = dt / (dt + tau),

    with the speed in sides of the box a second. A corner that moves on evenly thus lags by `speed * tau < LAG` sides.
    In the paper's terms: a least cutoff of 1 / (2 pi seconds), and beta = 1 / (2 pi LAG).

    Args:
        seconds: for boxes that stand still, above 0.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds: expected a number above 0, got {seconds}")
        self.seconds = seconds
        self._seen_at = 0.0
        self._seen: NDArray[np.float64] | None = None
        self._corners = self._speeds = np.zeros(4)

    def add(self, box_xyxy_px: Corners, seconds: float) -> Corners:
        """The smoothed box.

        Args:
            box_xyxy_px: corners in this frame, in pixels.
            seconds: its time, after that of the last.
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
