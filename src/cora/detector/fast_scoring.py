"""Which boxes get exact pooling; the published code pools every final box exactly, which is most of its work.

Every refined box is first scored by fast pooling, which costs next to nothing. Boxes are then left out, and keep these
fast probabilities:

- if their objectness^alpha is not above the score threshold: since a class probability is at most 1, their score cannot
  be either, so this changes no result;
- if non-maximum suppression by fast scores drops them for a better box of their class;
- if they are not among the best `count` that remain.

The others are pooled exactly, which replaces their fast probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from cora.boxes import cxcywh_to_xyxy


def worth_exact_pooling(
    boxes_cxcywh: Tensor, scores: Tensor, shares: Tensor, *, count: int, nms_iou: float, score_threshold: float = 0.0
) -> Tensor:
    """Indices of the boxes of one image to pool exactly.

    Args:
        boxes_cxcywh: [K, 4], 0..1.
        scores: [K, C] scores by fast pooling.
        shares: [K] objectness^alpha, 0..1: the factor on a class probability, so the highest score a box can get.
        count: how many at most; 0 for all above the threshold, without suppression.
        nms_iou: a box that overlaps a better one of its class by more is left out, 0..1.
        score_threshold: 0..1; boxes that cannot exceed it are left out.

    Returns:
        [k] int64, k <= count.
    """
    possible = (shares > score_threshold).nonzero()[:, 0]
    if count == 0:
        return possible
    best, classes = scores[possible].float().max(dim=1)
    kept = batched_nms(cxcywh_to_xyxy(boxes_cxcywh[possible].float()), best, classes, nms_iou)[:count]
    return possible[kept]


def scatter_rows(rows: Tensor, chosen: list[Tensor], replacements: Tensor) -> Tensor:
    """A copy of rows [B, K, C] with those at `chosen` (indices [k_i] for each image) replaced by [sum k_i, C]."""
    result = rows.clone()
    images = torch.cat([torch.full_like(places, image) for image, places in enumerate(chosen)])
    result[images, torch.cat(chosen)] = replacements.to(rows.dtype)
    return result
