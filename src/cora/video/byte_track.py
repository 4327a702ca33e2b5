"""Which boxes of successive frames are one object: ByteTrack (Zhang et al., ECCV 2022) of the package `trackers`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from cora.errors import needs_extra

#: The package counts its patience in frames of this rate.
_RATE_OF_PATIENCE = 30.0


class ByteTrack:
    """Joins boxes to tracks by overlap with where a track should be by now.

    Boxes above `start_score` are joined first and start new tracks; weaker ones only continue tracks that would
    otherwise be lost. Classes play no role, so a wavering class does not tear a track apart.

    Args:
        start_score: 0..1.
        rate: usual number of images in a second; the times decide where they differ from it.
        lost_seconds: how long a track waits for its object to appear again.
        confirm: images in a row in which an object must be seen before it gets a number.
        least_iou: 0..1, a box that overlaps the expected place by less is another object.

    Raises:
        MissingExtraError: the extra `video` is not installed.
    """

    def __init__(
        self,
        *,
        start_score: float,
        rate: float = 30.0,
        lost_seconds: float = 1.0,
        confirm: int = 2,
        least_iou: float = 0.1,
    ) -> None:
        with needs_extra("tracking", extra="video"):
            from trackers import ByteTrackTracker
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(lost_seconds * _RATE_OF_PATIENCE),
            frame_rate=rate,
            track_activation_threshold=start_score,
            high_conf_det_threshold=start_score,
            minimum_consecutive_frames=confirm,
            minimum_iou_threshold=least_iou,
        )

    def update(self, boxes_xyxy_px: Tensor, scores: Tensor, seconds: float) -> list[int]:
        """Numbers of the tracks of K boxes, from 1; 0 for boxes that are in no confirmed track.

        Args:
            boxes_xyxy_px: [K, 4].
            scores: [K] in 0..1.
            seconds: time of the image, after that of the last.
        """
        import supervision

        found = supervision.Detections(
            xyxy=boxes_xyxy_px.numpy().reshape(-1, 4),
            confidence=scores.numpy(),
            data={"row": np.arange(len(scores))},
        )
        tracked = self._tracker.update(found, timestamp=seconds)
        numbers = [0] * len(scores)
        if len(tracked) and tracked.tracker_id is not None:
            for row, number in zip(tracked.data["row"], tracked.tracker_id, strict=True):
                numbers[int(row)] = int(number) + 1
        return numbers
