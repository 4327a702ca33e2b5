"""Hungarian matching of queries to ground-truth boxes, among allowed pairs only (CORA, arXiv 2303.13076)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_giou
from cora.errors import TrainingError
from cora.training.losses import FOCAL_ALPHA, FOCAL_GAMMA, LossWeights


@torch.no_grad()
def matching_cost(
    objectness: Tensor, boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Cost and GIoU of every pair of a query and a box: weighted focal term + L1 - GIoU.

    The focal term is the query's focal loss as an object minus its focal loss as background.

    Args:
        objectness: [N] logits, or [N, T] if they depend on the class of the box. Several layers may be concatenated.
        boxes_cxcywh: [N, 4], 0..1.
        target_boxes_cxcywh: [T, 4], 0..1.
        weights: of the three terms.

    Returns:
        Cost [N, T] and GIoU [N, T], float32.
    """
    boxes, targets = boxes_cxcywh.float(), target_boxes_cxcywh.float()
    probability = objectness.float().sigmoid()
    # As published; 1e-8 keeps the logarithm finite.
    as_object = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + 1e-8).log()
    as_background = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + 1e-8).log()
    giou = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))
    l1 = torch.cdist(boxes, targets, p=1)
    focal = as_object - as_background
    cost = weights.objectness * (focal if focal.ndim == 2 else focal[:, None]) + weights.l1 * l1 - weights.giou * giou
    return cost, giou


def assign(cost: Tensor, giou: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Match the queries of one image to its boxes, each at most once.

    A box takes part only if some allowed query has a GIoU above 0 with it. Of these boxes as many as possible are
    matched, at the lowest total cost.

    Args:
        cost: [N, T] of matching query n to box t, from `matching_cost`.
        giou: [N, T] of the predicted and the ground-truth box.
        allowed: [N, T] bool, which pairs may match.

    Returns:
        Indices of matched queries [K], ascending, and of their boxes [K]; int64 on the CPU.

    Raises:
        TrainingError: a cost is not finite.
        ValueError: `allowed` is not bool or has another shape than `cost`.
    """
    if cost.shape != allowed.shape or allowed.dtype != torch.bool:
        raise ValueError(
            f"allowed: expected bool of shape {list(cost.shape)}, got {allowed.dtype} of shape {list(allowed.shape)}"
        )
    if not bool(torch.isfinite(cost).all()):
        raise TrainingError(
            "matching: expected finite objectness and boxes, got NaN or infinity; "
            "lower the learning rate or train without mixed precision"
        )
    reachable = (allowed & (giou > 0)).any(dim=0)
    columns = reachable.nonzero().squeeze(1).cpu().numpy()
    pairs: NDArray[np.bool_] = allowed.cpu().numpy()[:, columns]
    # Queries without an allowed box would only slow the solver down.
    rows = np.flatnonzero(pairs.any(axis=1))
    pairs = pairs[rows]
    values = cost.cpu().numpy()[np.ix_(rows, columns)].astype(np.float64)
    if values.size == 0:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    # A forbidden pair costs more than all allowed pairs together can save. The solver therefore uses one only for a box
    # that would otherwise stay unmatched; such pairs are removed afterwards.
    forbidden = 1.0 + 2.0 * (min(values.shape) + 1) * np.abs(values).max()
    from scipy.optimize import linear_sum_assignment  # from the extra `train`, which training commands check first

    query, target = linear_sum_assignment(np.where(pairs, values, forbidden))
    kept = pairs[query, target]
    return torch.from_numpy(rows[query[kept]]), torch.from_numpy(columns[target[kept]])
