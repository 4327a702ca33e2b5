"""L1 and GIoU of the cells that are responsible for a ground-truth box; no confidence is learned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cora.boxes import aligned_iou, cxcywh_to_xyxy
from cora.study.config import LossPart
from cora.training.losses import giou_loss


def cell_iou(boxes_cxcywh: Tensor, targets_cxcywh: Tensor) -> Tensor:
    """IoU of every cell's box with the target of its map: [T, H, W, 4] and [T, 4] to [T, H, W].

    Boxes are clipped to the image, as a detector's are.
    """
    return aligned_iou(cxcywh_to_xyxy(boxes_cxcywh).clamp(0, 1), cxcywh_to_xyxy(targets_cxcywh)[:, None, None])


def responsible_cells(boxes_cxcywh: Tensor, targets_cxcywh: Tensor, *, radius: int, threshold: float) -> Tensor:
    """Which cells learn from a box: the one of highest IoU, and those within `radius` of it if that IoU passes.

    Below the threshold only the best cell learns, so that training can start. If no box overlaps the target, the cell
    of the target's centre is the best.

    Args:
        boxes_cxcywh: [T, H, W, 4] of the target's own class in its image.
        targets_cxcywh: [T, 4].
        radius: in rows and columns.
        threshold: IoU in 0..1.

    Returns:
        [T, H, W] bool, at least one cell each.
    """
    with torch.no_grad():
        count, height, width = boxes_cxcywh.shape[:3]
        best_iou, best = cell_iou(boxes_cxcywh, targets_cxcywh).flatten(1).max(dim=1)
        x, y = ((targets_cxcywh[:, i] * cells).long().clamp(0, cells - 1) for i, cells in enumerate((width, height)))
        best = torch.where(best_iou > 0, best, y * width + x)
        reach = torch.where(best_iou >= threshold, radius, 0).view(count, 1, 1)
        rows = torch.arange(height, device=best.device).view(1, height, 1)
        columns = torch.arange(width, device=best.device).view(1, 1, width)
        near_row = (rows - (best // width).view(count, 1, 1)).abs() <= reach
        return near_row & ((columns - (best % width).view(count, 1, 1)).abs() <= reach)


def study_loss(boxes_cxcywh: Tensor, targets_cxcywh: Tensor, config: LossPart) -> dict[str, Tensor]:
    """Losses of T ground-truth boxes, each the mean over its responsible cells, averaged over boxes.

    Args:
        boxes_cxcywh: [T, H, W, 4] predicted in the channel of each box's own class.
        targets_cxcywh: [T, 4], 0..1; T of 1 or more.
        config: weights, radius, threshold.

    Returns:
        "loss", and without weights "l1" (sum of four absolute differences) and "giou" (1 - GIoU); "best_iou" of the
        best cell and "cells" a box, for the log.
    """
    cells = responsible_cells(boxes_cxcywh, targets_cxcywh, radius=config.radius, threshold=config.threshold)
    of_target = cells.nonzero()[:, 0]
    found, wanted = boxes_cxcywh[cells], targets_cxcywh[of_target]
    share = 1.0 / cells.sum(dim=(1, 2)).to(found.dtype)[of_target] / len(targets_cxcywh)
    l1 = (F.l1_loss(found, wanted, reduction="none").sum(dim=1) * share).sum()
    giou = (giou_loss(found, wanted) * share).sum()
    with torch.no_grad():
        best = cell_iou(boxes_cxcywh, targets_cxcywh).flatten(1).amax(dim=1).mean()
    return {
        "loss": config.l1 * l1 + config.giou * giou,
        "l1": l1,
        "giou": giou,
        "best_iou": best,
        "cells": cells.sum() / len(targets_cxcywh),
    }
