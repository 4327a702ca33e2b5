"""Exact classes at pre-matching: what if every anchor knew what lies under it? An oracle, for it reads the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.structures import Targets


def classes_of_boxes(anchors_cxcywh: Tensor, targets: Sequence[Targets], otherwise: Tensor) -> Tensor:
    """The class of the true box that every anchor overlaps most.

    Args:
        anchors_cxcywh: [B, N, 4], 0..1.
        targets: true boxes of each image.
        otherwise: [B, N] int64 class of anchors that overlap no box.

    Returns:
        [B, N] int64.
    """
    rows = []
    for anchors, one, classes in zip(anchors_cxcywh, targets, otherwise, strict=True):
        if len(one):
            overlap = pairwise_iou(cxcywh_to_xyxy(anchors.float()), cxcywh_to_xyxy(one.boxes_cxcywh.float()))
            best = overlap.max(dim=1)
            classes = torch.where(best.values > 0, one.classes[best.indices], classes)
        rows.append(classes)
    return torch.stack(rows)
