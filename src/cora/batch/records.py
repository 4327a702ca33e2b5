"""The results of one image: the line of JSON that the file of a part has for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cora.boxes import pairwise_iou
from cora.structures import Detections

#: IoU from which on boxes of different classes count as one object.
_SAME_OBJECT_IOU = 0.7
_BOX_DIGITS, _SCORE_DIGITS = 2, 6
#: Index that means "no other class".
NONE = -1


class Box(NamedTuple):
    """A detected box.

    Attributes:
        label: index of its class.
        score: 0..1.
        left: in pixels of the upright image, as are the other sides.
        top: y of the upper side.
        right: x of the right side.
        bottom: y of the lower side.
        other: index of the best other class of the same object with no higher score, or `NONE`.
        other_score: score of that class, or 0.
    """

    label: int
    score: float
    left: float
    top: float
    right: float
    bottom: float
    other: int = NONE
    other_score: float = 0.0

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom

    @property
    def margin(self) -> float:
        """How much lower the score of the best other class is; the score itself where no other was seen."""
        return self.score - self.other_score


@dataclass(frozen=True, kw_only=True)
class Record:
    """The results of one image.

    Attributes:
        number: number of the image.
        size: (height, width) in pixels; (0, 0) if it could not be read.
        boxes: best first.
        error: why the image could not be read, or "".
    """

    number: int
    size: tuple[int, int] = (0, 0)
    boxes: tuple[Box, ...] = ()
    error: str = ""

    def to_line(self) -> str:
        """One line of JSON."""
        if self.error:
            content: list[object] = [self.number, self.error]
        else:
            boxes = [box[:6] if box.other == NONE else box for box in self.boxes]
            content = [self.number, self.size, boxes]
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Record:
        """The record of a line that `to_line` wrote."""
        number, *content = json.loads(line)
        if len(content) == 1:
            return cls(number=number, error=content[0])
        (height, width), boxes = content
        return cls(number=number, size=(height, width), boxes=tuple(Box(*box) for box in boxes))


def record_of(number: int, detections: Detections) -> Record:
    """The record of an image's detections: pixels are rounded to 1/100, and boxes that are thinner are left out."""
    scores = detections.scores.float()
    rivals = pairwise_iou(detections.boxes_xyxy_px, detections.boxes_xyxy_px) >= _SAME_OBJECT_IOU
    rivals &= detections.labels[:, None] != detections.labels[None, :]
    # Of two classes of one object, only the better one has the other as its rival.
    rivals &= torch.ones_like(rivals).triu(diagonal=1)
    best, other = torch.where(rivals, scores[None, :], torch.zeros(())).max(dim=1) if len(scores) else (scores, scores)
    boxes = []
    for row, (label, score, corners) in enumerate(
        zip(detections.labels.tolist(), scores.tolist(), detections.boxes_xyxy_px.tolist(), strict=True)
    ):
        left, top, right, bottom = (round(value, _BOX_DIGITS) for value in corners)
        second = float(best[row])
        rival = int(detections.labels[int(other[row])]) if second > 0 else NONE
        box = Box(label, round(score, _SCORE_DIGITS), left, top, right, bottom, rival, round(second, _SCORE_DIGITS))
        if right > left and bottom > top:
            boxes.append(box)
    return Record(number=number, size=detections.image_size, boxes=tuple(boxes))
