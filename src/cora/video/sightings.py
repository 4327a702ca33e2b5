"""The objects of one frame as the tracker needs them: one box for each, with a score for every class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cora.boxes import pairwise_iou
from cora.structures import Detections

#: IoU from which on two boxes count as one object; those of different objects seldom overlap as much.
SAME_OBJECT = 0.7


@dataclass(frozen=True)
class Sightings:
    """Objects of one frame before they are tracked, best first.

    Attributes:
        boxes_xyxy_px: [K, 4] float32, corners in pixels.
        class_scores: [K, C] float32 in 0..1; 0 for classes that the detector did not report for this box.
    """

    boxes_xyxy_px: Tensor
    class_scores: Tensor

    def __len__(self) -> int:
        return len(self.boxes_xyxy_px)

    @property
    def scores(self) -> Tensor:
        """[K] score of the best class of each box."""
        return self.class_scores.amax(dim=1)


def merge_classes(detections: Detections, *, same_object: float = SAME_OBJECT) -> Sightings:
    """Merge boxes of several classes that show the same object.

    Of boxes that overlap by `same_object` or more, the best one stays. Its score for each class is the highest score of
    that class among them.

    Args:
        detections: best first, suppressed within each class only.
        same_object: IoU, 0..1.
    """
    count, classes = len(detections), len(detections.class_names)
    boxes, scores = detections.boxes_xyxy_px, detections.scores
    near = pairwise_iou(boxes, boxes) >= same_object
    owner = torch.full((count,), -1, dtype=torch.int64)
    leaders: list[int] = []
    for row in range(count):
        if owner[row] < 0:
            owner[near[row] & (owner < 0)] = len(leaders)
            owner[row] = len(leaders)  # an empty box does not even overlap itself
            leaders.append(row)
    table = torch.zeros(len(leaders) * classes)
    table = table.scatter_reduce(0, owner * classes + detections.labels, scores.float(), reduce="amax")
    return Sightings(boxes[leaders], table.view(len(leaders), classes))
