"""Chooses the class of a track from all of its frames so far, so that its label does not flicker."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassHistory:
    """Sums the class scores of a track; scores lose half their weight every `half_life` seconds.

    A detector that wavers between two classes from frame to frame wavers around a mean, and the sum shows that mean.
    Since old scores fade, a track can still change its class if that was wrong at first or if the track went over to
    another object. The margin keeps two classes with about equal sums from taking turns.

    Args:
        classes: number of classes.
        half_life: seconds.
        margin: 1 or more; another class takes over when its sum exceeds that of the current one by this factor.

    Attributes:
        label: index of the class of the track.
    """

    def __init__(self, classes: int, *, half_life: float = 2.0, margin: float = 1.5) -> None:
        if not half_life > 0:
            raise ValueError(f"half_life: expected seconds above 0, got {half_life}")
        if not margin >= 1:
            raise ValueError(f"margin: expected 1 or more, got {margin}")
        self.half_life, self.margin = half_life, margin
        self._recent = torch.zeros(classes)
        self._seen_at: float | None = None
        self.label = 0

    def add(self, class_scores: Tensor, seconds: float) -> None:
        """Add the scores of one frame.

        Args:
            class_scores: [C], 0 or more.
            seconds: time of the frame, not before that of the last one.
        """
        if self._seen_at is not None:
            self._recent *= 0.5 ** ((seconds - self._seen_at) / self.half_life)
        self._recent += class_scores
        best = int(self._recent.argmax())
        if self._seen_at is None or self._recent[best] > self.margin * self._recent[self.label]:
            self.label = best
        self._seen_at = seconds
