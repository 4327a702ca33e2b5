"""The three losses of the localizer, summed and not yet divided by the number of matched boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cora.boxes import aligned_giou, cxcywh_to_xyxy

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the losses in the total, the same for every layer."""

    objectness: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


def sigmoid_focal_loss(
    logits: Tensor, is_object: Tensor, *, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA
) -> Tensor:
    """Focal loss (Lin et al., 2017) of every element: -alpha_t (1 - p_t)^gamma log p_t.

    Args:
        logits: [...].
        is_object: [...] targets, 0 or 1, bool or float.
        alpha: weight of objects; background weighs 1 - alpha.
        gamma: how much less easy elements count.

    Returns:
        [...], not reduced; float32 whatever the logits, for sums over many queries overflow half precision.
    """
    logits, target = logits.float(), is_object.float()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    surprise = torch.where(target > 0.5, 1 - probability, probability)
    weight = torch.where(target > 0.5, alpha, 1 - alpha)
    return weight * surprise**gamma * entropy


def l1_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """Sum of absolute differences of centres and sizes, [K, 4] and [K, 4] to a scalar."""
    return F.l1_loss(boxes_cxcywh.float(), target_boxes_cxcywh.float(), reduction="sum")


def giou_loss(boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor) -> Tensor:
    """Sum of 1 - GIoU (Rezatofighi et al., 2019) of row i with row i, [K, 4] and [K, 4] to a scalar."""
    first, second = cxcywh_to_xyxy(boxes_cxcywh.float()), cxcywh_to_xyxy(target_boxes_cxcywh.float())
    return (1 - aligned_giou(first, second)).sum()


def mean_over_processes(total: Tensor) -> Tensor:
    """What to divide a sum by: the mean of a count over all processes.

    At least one of all processes together, not of each: their mean gradient is then that of one process that saw
    all images.
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
