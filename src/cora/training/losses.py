"""The three losses of the localizer, before they are divided by the number of matched boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

from cora.boxes import cxcywh_to_xyxy

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the three terms, in the total loss and in the cost of the matching; the same for every layer."""

    objectness: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


def sigmoid_focal_loss(logits: Tensor, is_object: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017) of every element, in float32.

    Half precision would overflow in sums over many queries.

    Args:
        logits: [...] of any floating type.
        is_object: [...] targets, 0 or 1, bool or float.

    Returns:
        [...], not reduced.
    """
    losses: Tensor = ops.sigmoid_focal_loss(logits.float(), is_object.float(), alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA)
    return losses


def l1_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """Sum of absolute differences of centres and sizes, [K, 4] and [K, 4] to a scalar."""
    return F.l1_loss(boxes_cxcywh.float(), target_boxes_cxcywh.float(), reduction="sum")


def giou_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., 2019) of every box and its target, in float32.

    Args:
        boxes_cxcywh: [..., 4] predicted boxes.
        target_boxes_cxcywh: [..., 4] of the same shape.

    Returns:
        [...] in 0..2, not reduced.
    """
    found, wanted = cxcywh_to_xyxy(boxes_cxcywh.float()), cxcywh_to_xyxy(target_boxes_cxcywh.float())
    # The default eps is of the size of a small box's area in 0..1 units and would change its loss.
    losses: Tensor = ops.generalized_box_iou_loss(found, wanted, eps=torch.finfo(found.dtype).tiny)
    return losses


def mean_over_processes(total: Tensor) -> Tensor:
    """Divisor of a sum of losses: the mean of a count over all processes.

    The total over all processes is at least 1. The averaged gradient is then that of one process with all images.
    """
    processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return total.clamp(min=1) / processes


def class_loss_weights(counts: Tensor) -> Tensor:
    """boxes^-0.5 of mean 1 [C] for the boxes of each class [C]: without it a common class is all that is learned."""
    weights = counts.clamp(min=1).float() ** -0.5
    return weights / weights.mean()
