"""Post-processing, from scored boxes to detections: score threshold, suppression per class, best K."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from cora.boxes import clip_to_image, scale_to_pixels

#: Score threshold of models whose file does not store one.
SCORE_THRESHOLD = 0.3

#: The same for the built-in vocabulary; measured for nano (recipes/nano/builtin_threshold.py).
BUILTIN_THRESHOLD = 0.1

#: Candidates, best first, that suppression considers at first per wanted detection.
_CANDIDATES_PER_DETECTION = 10


#: Settings of the published code, which classifies every box by exact pooling.
ALL_BOXES: Mapping[str, Any] = {"max_scored_boxes": 0, "exact_boxes": 0}


@dataclass(frozen=True)
class PostprocessConfig:
    """How scores become detections.

    Attributes:
        objectness_power: alpha in class probability * objectness^alpha.
        nms_iou: suppression threshold: a box is dropped if its IoU with a better box of its class is higher.
        min_score: scores up to this one are dropped before suppression.
        max_detections: most detections per image.
        max_scored_boxes: only this many boxes per image, those of highest objectness, are classified; 0 for all, as
            published.
        exact_boxes: most of these that are pooled exactly, the others keep their fast scores; 0 for all, as published.
        distractors: distractors that a call uses by default: "none", or the "everyday" names.
        score_threshold: default of a call; only detections with a higher score are reported.
        builtin_threshold: the same for the built-in vocabulary.

    Raises:
        ValueError: a value out of its range.
    """

    objectness_power: float = 1.0
    nms_iou: float = 0.5
    min_score: float = 0.001
    max_detections: int = 100
    max_scored_boxes: int = 300
    exact_boxes: int = 16
    distractors: Literal["none", "everyday"] = "none"
    score_threshold: float = SCORE_THRESHOLD
    builtin_threshold: float = BUILTIN_THRESHOLD

    def __post_init__(self) -> None:
        if self.distractors not in ("none", "everyday"):
            raise ValueError(f'distractors: expected "none" or "everyday", got {self.distractors!r}')
        for name in ("nms_iou", "min_score", "score_threshold", "builtin_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0..1, got {getattr(self, name)}")
        if self.max_detections < 1:
            raise ValueError(f"max_detections: expected at least 1, got {self.max_detections}")
        if self.objectness_power < 0:
            raise ValueError(f"objectness_power: expected 0 or more, got {self.objectness_power}")
        for name in ("max_scored_boxes", "exact_boxes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 (all) or more, got {getattr(self, name)}")


#: Boxes [K, 4] xyxy in pixels, scores [K] in descending order, and labels [K] int64 of one image.
Found = tuple[Tensor, Tensor, Tensor]


def combine_scores(probabilities: Tensor, objectness: Tensor, power: float = 1.0) -> Tensor:
    """Scores [B, N, C], 0..1: class probability [B, N, C] * sigmoid(objectness logit [B, N])^power."""
    return probabilities * objectness.sigmoid().pow(power).unsqueeze(-1)


def select_detections(
    boxes_cxcywh: Tensor,
    scores: Tensor,
    size_hw: tuple[int, int],
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
    clip: bool = True,
    class_agnostic: bool = False,
) -> Found:
    """Select the detections of one image.

    Args:
        boxes_cxcywh: [N, 4], 0..1 of the unpadded image.
        scores: [N, C] in 0..1; every pair of box and class is a candidate.
        size_hw: (height, width) of the original image in pixels.
        min_score: scores up to this one are dropped before suppression.
        nms_iou: IoU threshold of suppression within each class.
        max_detections: most detections.
        clip: whether boxes are clipped to the image.
        class_agnostic: whether suppression between classes follows that within classes. Both run, in this order, since
            an exported graph may contain the first.

    Returns:
        Boxes [K, 4] xyxy in pixels, scores [K] in descending order, labels [K] int64.
    """
    boxes = scale_to_pixels(boxes_cxcywh, size_hw)
    rows, labels = (scores > min_score).nonzero(as_tuple=True)
    candidates, candidate_scores = boxes[rows].float(), scores[rows, labels].float()
    keep = _best_after_nms(candidates, candidate_scores, labels, nms_iou, max_detections, class_agnostic)
    kept = candidates[keep]
    return clip_to_image(kept, size_hw) if clip else kept, candidate_scores[keep], labels[keep]


def suppress(
    boxes_cxcywh: Tensor,
    scores: Tensor,
    sizes_hw: Sequence[tuple[int, int]],
    config: PostprocessConfig,
    *,
    score: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    class_agnostic: bool = False,
) -> list[Found]:
    """`select_detections` for every image of a batch; settings that are None come from `config`.

    Args:
        boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image.
        scores: [B, N, C] in 0..1.
        sizes_hw: (height, width) of the original images in pixels.
        config: settings of the model.
        score: replaces `config.min_score`.
        nms_iou: replaces `config.nms_iou`.
        max_detections: replaces `config.max_detections`.
        class_agnostic: as in `select_detections`.

    Returns:
        For each image boxes [K, 4] xyxy in pixels, scores [K] in descending order, labels [K] int64.
    """
    return [
        select_detections(
            boxes,
            image_scores,
            size,
            min_score=config.min_score if score is None else score,
            nms_iou=config.nms_iou if nms_iou is None else nms_iou,
            max_detections=config.max_detections if max_detections is None else max_detections,
            class_agnostic=class_agnostic,
        )
        for boxes, image_scores, size in zip(boxes_cxcywh, scores, sizes_hw, strict=True)
    ]


def nms_indices(boxes_xyxy_px: Tensor, scores: Tensor, labels: Tensor, iou: float, *, class_agnostic: bool) -> Tensor:
    """Indices [K] of the boxes that suppression keeps, in descending order of score.

    Args:
        boxes_xyxy_px: [N, 4].
        scores: [N].
        labels: [N] int64.
        iou: suppression threshold, 0..1.
        class_agnostic: as in `select_detections`.
    """
    keep: Tensor = batched_nms(boxes_xyxy_px, scores, labels, iou)
    return keep[nms(boxes_xyxy_px[keep], scores[keep], iou)] if class_agnostic else keep


def _best_after_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, count: int, class_agnostic: bool
) -> Tensor:
    """Indices of the best `count` candidates that suppression keeps, in descending order of score.

    Only better candidates can suppress a candidate, so suppression among the best few already gives the result if it
    keeps `count` of them. This saves time with many classes: there is a candidate for each box and class.
    """
    considered = _CANDIDATES_PER_DETECTION * count
    while considered < len(scores):
        best = scores.topk(considered).indices
        keep = nms_indices(boxes[best], scores[best], labels[best], nms_iou, class_agnostic=class_agnostic)
        if len(keep) >= count:
            return best[keep[:count]]
        considered *= 4
    return nms_indices(boxes, scores, labels, nms_iou, class_agnostic=class_agnostic)[:count]


def best_boxes(boxes_cxcywh: Tensor, objectness: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keep the `count` boxes of highest objectness: [B, N, 4], [B, N] to [B, K, 4], [B, K]; a count of 0 keeps all."""
    if count == 0 or count >= objectness.shape[1]:
        return boxes_cxcywh, objectness
    top, index = objectness.topk(count, dim=1)
    return torch.gather(boxes_cxcywh, 1, index.unsqueeze(-1).expand(-1, -1, 4)), top
