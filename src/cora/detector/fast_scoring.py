"""Chooses the few boxes that need exact pooling. It is not in the paper.

The published code pools every final box exactly, which is most of its computation. Here every refined box is first
scored by fast pooling, which costs next to nothing. Only boxes that pass three tests are pooled exactly; the others
keep their fast probabilities:

1. Objectness^alpha is above the score threshold. It bounds the score, since a class probability is at most 1, so this
   test changes no detection above the threshold.
2. Non-maximum suppression by fast scores keeps the box.
3. It is among the best `count` boxes that remain.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from cora.boxes import cxcywh_to_xyxy


def worth_exact_pooling(
    boxes_cxcywh: Tensor, scores: Tensor, bounds: Tensor, *, count: int, nms_iou: float, score_threshold: float = 0.0
) -> Tensor:
    """Indices of the boxes of one image that should be pooled exactly.

    Args:
        boxes_cxcywh: [K, 4], 0..1.
        scores: [K, C] scores by fast pooling.
        bounds: [K] objectness^alpha, 0..1: the highest score that a box can have.
        count: most boxes; 0 for all that pass the first test, without suppression.
        nms_iou: suppression threshold, 0..1.
        score_threshold: 0..1; a box needs a bound above it.

    Returns:
        [k] int64, k <= count if `count` is not 0.
    """
    possible = (bounds > score_threshold).nonzero()[:, 0]
    if count == 0:
        return possible
    best, classes = scores[possible].float().max(dim=1)
    kept = batched_nms(cxcywh_to_xyxy(boxes_cxcywh[possible].float()), best, classes, nms_iou)[:count]
    return possible[kept]


def scatter_rows(rows: Tensor, chosen: list[Tensor], replacements: Tensor) -> Tensor:
    """Copy `rows` [B, K, C] and replace those at `chosen`, indices [k_i] per image, by `replacements` [sum k_i, C]."""
    result = rows.clone()
    images = torch.cat([torch.full_like(indices, image) for image, indices in enumerate(chosen)])
    result[images, torch.cat(chosen)] = replacements.to(rows.dtype)
    return result
