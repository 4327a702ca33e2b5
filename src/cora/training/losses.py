"""The three losses of the localizer (focal, L1, GIoU), before division by the number of matched boxes."""

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
    """Weights of the three losses, in the total loss and in the matching cost; the same for every decoder layer."""

    objectness: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


def sigmoid_focal_loss(logits: Tensor, is_object: Tensor) -> Tensor:
    """Focal loss (Lin et al., 2017) of every element.

    It is computed in float32, since a sum over many queries would overflow in half precision.

    Args:
        logits: [...] of any floating type.
        is_object: [...] targets, 0 or 1, bool or float.

    Returns:
        [...], not reduced.
    """
    losses: Tensor = ops.sigmoid_focal_loss(logits.float(), is_object.float(), alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA)
    return losses


def l1_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """Sum of absolute differences of centres and sizes, of [K, 4] and [K, 4]: a scalar, in float32."""
    return F.l1_loss(boxes_cxcywh.float(), target_boxes_cxcywh.float(), reduction="sum")


def giou_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., 2019) of every box and its target, computed in float32.

    Args:
        boxes_cxcywh: [..., 4] predicted boxes.
        target_boxes_cxcywh: [..., 4] of the same shape.

    Returns:
        [...] in 0..2, not reduced.
    """
    boxes, targets = cxcywh_to_xyxy(boxes_cxcywh.float()), cxcywh_to_xyxy(target_boxes_cxcywh.float())
    # The default eps, 1e-7, would change the loss of small boxes, whose areas are in 0..1 units.
    losses: Tensor = ops.generalized_box_iou_loss(boxes, targets, eps=torch.finfo(boxes.dtype).tiny)
    return losses


def mean_over_processes(total: Tensor) -> Tensor:
    """Average a count over all processes, to divide a sum of losses by it.

    DDP averages gradients over processes. With this divisor, the averaged gradient equals that of a single process
    with all images.

    Args:
        total: scalar, the count of this process; is changed.

    Returns:
        Scalar, max(1, sum over processes) / processes.
    """
    processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return total.clamp(min=1) / processes


def class_loss_weights(counts: Tensor) -> Tensor:
    """Loss weight of each class, (number of boxes)^-0.5 with a mean of 1: counts [C] to weights [C].

    Without it the most frequent classes would dominate the loss.
    """
    weights = counts.clamp(min=1).float() ** -0.5
    return weights / weights.mean()
