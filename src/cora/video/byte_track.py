"""Joins the boxes of successive frames to tracks: ByteTrack (Zhang et al., ECCV 2022), from the package `trackers`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from cora.errors import needs_extra

#: Frames a second that `lost_track_buffer` is counted in, whatever the rate of the video.
_BUFFER_RATE = 30.0


class ByteTrack:
    """Joins each box to the track whose predicted box it overlaps most.

    Boxes above `start_score` are joined first, and start new tracks; weaker ones only continue tracks that would
    otherwise be lost. Classes play no role, so a track stays whole where its class wavers.

    Args:
        start_score: score, 0..1, above which a box may start a track.
        rate: usual number of frames a second; where the times of frames say otherwise, they count.
        lost_seconds: seconds for which a track waits for its object to appear again.
        confirm: consecutive frames in which an object must be seen before its track gets a number.
        least_iou: IoU, 0..1, with the predicted box below which a box belongs to another object.

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
            lost_track_buffer=round(lost_seconds * _BUFFER_RATE),
            frame_rate=rate,
            track_activation_threshold=start_score,
            high_conf_det_threshold=start_score,
            minimum_consecutive_frames=confirm,
            minimum_iou_threshold=least_iou,
        )

    def update(self, boxes_xyxy_px: Tensor, scores: Tensor, seconds: float) -> list[int]:
        """Join the boxes of the next frame to tracks.

        Args:
            boxes_xyxy_px: [K, 4] corners in pixels.
            scores: [K] in 0..1.
            seconds: time of the frame, later than that of the last one.

        Returns:
            The track number of each of the K boxes, from 1; 0 for a box that is in no confirmed track.
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
