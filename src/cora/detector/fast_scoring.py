"""Which boxes are worth exact pooling: layer4 for every final box is most of the published design's work.

Every box is first scored by fast pooling of its refined extent, which costs next to nothing. Exact pooling then goes to
the boxes that can still matter, and takes the place of their fast scores:

- a box whose objectness is below the least score that is asked for can never be reported, as a class probability is
  at most 1: exact, not an estimate;
- a box that a better-scored one of its class covers would fall to non-maximum suppression;
- of the rest the best `count`.

Boxes left out keep their fast probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from cora.boxes import cxcywh_to_xyxy


def worth_exact_pooling(
    boxes_cxcywh: Tensor, scores: Tensor, shares: Tensor, *, count: int, nms_iou: float, least_score: float = 0.0
) -> Tensor:
    """Places of the boxes of one image to pool exactly.

    Args:
        boxes_cxcywh: [K, 4], 0..1.
        scores: [K, C] estimated scores, of class probabilities by fast pooling.
        shares: [K] in 0..1, what a class probability is multiplied by: the highest score a box can get.
        count: how many at most; 0 stands for all, however they score.
        nms_iou: overlap from which a box counts as covered by a better one of the same class.
        least_score: boxes that cannot reach it are left out.

    Returns:
        [k] int64, k <= count.
    """
    possible = (shares > least_score).nonzero()[:, 0]
    if count == 0:
        return possible
    best, classes = scores[possible].float().max(dim=1)
    kept = batched_nms(cxcywh_to_xyxy(boxes_cxcywh[possible].float()), best, classes, nms_iou)[:count]
    return possible[kept]


def scatter_rows(rows: Tensor, chosen: list[Tensor], replacements: Tensor) -> Tensor:
    """A copy of [B, K, C] whose rows `chosen`, a list of places for each image, are those of [sum k_i, C], in order."""
    result = rows.clone()
    images = torch.cat([torch.full_like(places, image) for image, places in enumerate(chosen)])
    result[images, torch.cat(chosen)] = replacements.to(rows.dtype)
    return result
