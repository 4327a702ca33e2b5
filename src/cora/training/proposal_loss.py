"""Losses of the anchor proposals: every cell of the feature map is assigned to a ground-truth box or to background.

The assignment is centre sampling (FCOS, Tian et al., 2019), or task-aligned for a feature pyramid (TOOD, Feng et al.,
2021). The target of a cell's objectness is the IoU of its predicted box (quality focal loss, Li et al., 2020), so that
the best box of an object ranks first. Classes are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.boxes import aligned_iou, cxcywh_to_xyxy, pairwise_iou
from cora.localizer import Proposals
from cora.structures import Targets
from cora.training.losses import giou_loss, mean_over_processes

#: Side of the central part of a box, as a share of the box; cells whose centres lie in it are assigned to the box.
CENTRAL_SHARE = 0.5
#: Weight of each of the three losses in the total.
WEIGHT = 2.0
#: Cells assigned to a box by `assign_aligned`, at most.
ALIGNED_CELLS = 9


def assign_cells(centres: Tensor, inside: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Assign cells to boxes by centre sampling.

    A box gets the cells in its central part and the cell nearest to its centre. A cell of several boxes goes to the
    smallest of them, except that the nearest cell of a box stays with it.

    Args:
        centres: [M, 2] (x, y) of the cells, 0..1.
        inside: [M] bool, False for cells on padding, which are never assigned.
        boxes_cxcywh: [T, 4], 0..1.

    Returns:
        [M] int64 index of the cell's box, -1 for background.
    """
    if not len(boxes_cxcywh):
        return torch.full_like(inside, -1, dtype=torch.int64)
    offset = (centres[:, None] - boxes_cxcywh[None, :, :2]).abs()  # [M, T, 2]
    central = (offset <= CENTRAL_SHARE / 2 * boxes_cxcywh[None, :, 2:]).all(-1)
    distance = offset.square().sum(-1).masked_fill(~inside[:, None], torch.inf)
    nearest = F.one_hot(distance.argmin(0), len(centres)).T.bool()
    # Areas are at most 1, so subtracting 1 makes the nearest cell prefer its box to any smaller one.
    area = boxes_cxcywh[:, 2:].prod(-1) - nearest.float()
    cost = area.masked_fill(~((central | nearest) & inside[:, None]), torch.inf)
    best = cost.min(dim=1)
    return torch.where(best.values.isfinite(), best.indices, -1)


@torch.no_grad()
def assign_aligned(proposals: Proposals, image: int, boxes_cxcywh: Tensor) -> Tensor:
    """Assign cells of several strides to boxes by task-aligned assignment (TOOD, Feng et al., 2021).

    A box gets the `ALIGNED_CELLS` cells with the highest objectness^0.5 * IoU^3 among those inside it. A cell of
    several boxes goes to the one with the highest IoU. Levels whose stride does not suit a box thus get few of its
    cells.

    Args:
        proposals: of a batch.
        image: index of the image in the batch.
        boxes_cxcywh: [T, 4], 0..1.

    Returns:
        [M] int64 index of the cell's box, -1 for background.
    """
    cells = proposals.boxes_cxcywh.shape[1]
    if not len(boxes_cxcywh):
        return torch.full((cells,), -1, device=boxes_cxcywh.device)
    corners, centres = cxcywh_to_xyxy(boxes_cxcywh), proposals.centres[image]
    inside = (centres[:, None] > corners[None, :, :2]).all(-1) & (centres[:, None] < corners[None, :, 2:]).all(-1)
    inside &= proposals.inside[image][:, None]
    overlap = pairwise_iou(cxcywh_to_xyxy(proposals.boxes_cxcywh[image]), corners)
    fitness = overlap.pow(3) * proposals.objectness[image].sigmoid().sqrt()[:, None]
    fitness = torch.where(inside, fitness + 1e-9, torch.zeros_like(fitness))
    best = fitness.topk(min(ALIGNED_CELLS, cells), dim=0)
    candidate = torch.zeros_like(inside).scatter_(0, best.indices, best.values > 0)
    highest = torch.where(candidate, overlap, torch.full_like(overlap, -1.0)).max(dim=1)
    return torch.where(highest.values >= 0, highest.indices, torch.full_like(highest.indices, -1))


def proposal_losses(proposals: Proposals, targets: Sequence[Targets], *, aligned: bool = False) -> dict[str, Tensor]:
    """Losses of the proposals of a batch.

    An assigned cell has the weight (number of cells of its box)^-0.5, a background cell has 1. The losses are divided
    by the sum of the weights of assigned cells (see `mean_over_processes`).

    Args:
        proposals: of the batch.
        targets: boxes of each image.
        aligned: assign cells by `assign_aligned`, not by `assign_cells`.

    Returns:
        Scalars `proposal_objectness`, `proposal_l1`, `proposal_giou`; `proposals`, `WEIGHT` times their sum, to be
        minimised; `proposal_iou`, the mean IoU of assigned cells (0..1, a metric without gradient).
    """
    assigned = torch.stack(
        [
            assign_aligned(proposals, index, one.boxes_cxcywh)
            if aligned
            else assign_cells(proposals.centres[index], proposals.inside[index], one.boxes_cxcywh)
            for index, one in enumerate(targets)
        ]
    )
    image, cell = (assigned >= 0).nonzero(as_tuple=True)
    boxes = proposals.boxes_cxcywh[image, cell]
    starts = torch.tensor([0] + [len(one) for one in targets], device=image.device).cumsum(0)
    box_index = starts[image] + assigned[image, cell]
    target_boxes = torch.cat([one.boxes_cxcywh for one in targets])[box_index]
    # A large object may have a hundred cells, a small one only one. The square root keeps the large from dominating.
    cell_weight = box_index.bincount(minlength=int(starts[-1])).clamp(min=1).float()[box_index].rsqrt()
    overlap = aligned_iou(cxcywh_to_xyxy(boxes.detach()), cxcywh_to_xyxy(target_boxes))
    quality = torch.zeros_like(proposals.objectness)
    quality[image, cell] = overlap
    modulation = (proposals.objectness.sigmoid() - quality).abs().square()
    entropy = F.binary_cross_entropy_with_logits(proposals.objectness, quality, reduction="none")
    weight = torch.ones_like(quality)
    weight[image, cell] = cell_weight
    divisor = mean_over_processes(cell_weight.sum())
    losses = {
        "proposal_objectness": (weight * modulation * entropy * proposals.inside).sum() / divisor,
        "proposal_l1": (cell_weight[:, None] * (boxes - target_boxes).abs()).sum() / divisor,
        "proposal_giou": (cell_weight * giou_loss(boxes, target_boxes)).sum() / divisor,
    }
    total = WEIGHT * torch.stack(list(losses.values())).sum()
    return losses | {"proposals": total, "proposal_iou": overlap.sum() / max(len(image), 1)}
