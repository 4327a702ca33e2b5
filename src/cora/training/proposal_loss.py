"""What teaches the anchor proposals: the cells in the middle of a box find it, all others are background.

Assignment by centre sampling (FCOS, Tian et al. 2019), objectness towards the overlap that the cell's own box reaches
(quality focal loss, Li et al. 2020), so that the best box of an object ranks first. Classes play no part.
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

#: Share of a box, around its centre, whose cells are responsible for it.
CENTRAL_SHARE = 0.5
#: Weight of each of the three losses in the total.
WEIGHT = 2.0
#: Cells of a pyramid that find a box together.
ALIGNED_CELLS = 9


def assign_cells(centres: Tensor, inside: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Which box every cell has to find: [M] int64, -1 for none.

    A cell belongs to a box if it lies in the middle of it, or is nearest to its centre; of several, to the smallest.

    Args:
        centres: [M, 2] (x, y) of the cells, 0..1.
        inside: [M] bool, False on padding, which belongs to no box.
        boxes_cxcywh: [T, 4].
    """
    if not len(boxes_cxcywh):
        return torch.full_like(inside, -1, dtype=torch.int64)
    offset = (centres[:, None] - boxes_cxcywh[None, :, :2]).abs()  # [M, T, 2]
    central = (offset <= CENTRAL_SHARE / 2 * boxes_cxcywh[None, :, 2:]).all(-1)
    distance = offset.square().sum(-1).masked_fill(~inside[:, None], torch.inf)
    nearest = F.one_hot(distance.argmin(0), len(centres)).T.bool()
    # The nearest cell is the box's own, whatever smaller box covers it.
    area = boxes_cxcywh[:, 2:].prod(-1) - nearest.float()
    cost = area.masked_fill(~((central | nearest) & inside[:, None]), torch.inf)
    best = cost.min(dim=1)
    return torch.where(best.values.isfinite(), best.indices, -1)


@torch.no_grad()
def assign_aligned(proposals: Proposals, image: int, boxes_cxcywh: Tensor) -> Tensor:
    """Task-aligned assignment (TOOD, Feng et al. 2021), for cells of several strides: those that find a box best.

    Of the cells inside a box, the `ALIGNED_CELLS` of highest objectness^0.5 * IoU^3 are its own; a cell that several
    boxes want goes to the one it overlaps most. A level too coarse or too fine for an object thus stays out of it.

    Args:
        proposals: of a batch.
        image: place of the image in it.
        boxes_cxcywh: [T, 4], 0..1.

    Returns:
        [M] int64 index of the box, -1 for background.
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
    wanted = torch.zeros_like(inside).scatter_(0, best.indices, best.values > 0)
    claimed = torch.where(wanted, overlap, torch.full_like(overlap, -1.0)).max(dim=1)
    return torch.where(claimed.values >= 0, claimed.indices, torch.full_like(claimed.indices, -1))


def proposal_losses(proposals: Proposals, targets: Sequence[Targets], *, aligned: bool = False) -> dict[str, Tensor]:
    """Losses of the proposals of a batch, each cell weighed by (cells of its object)^-0.5.

    They are divided by the sum of these weights over all assigned cells (averaged over processes, at least 1).

    Returns:
        Scalars `proposal_objectness`, `proposal_l1`, `proposal_giou` and `proposals`, `WEIGHT` times their sum;
        `proposal_iou`, the mean overlap of assigned cells (for reading only).
    """
    assigned = torch.stack(
        [
            assign_aligned(proposals, place, one.boxes_cxcywh)
            if aligned
            else assign_cells(proposals.centres[place], proposals.inside[place], one.boxes_cxcywh)
            for place, one in enumerate(targets)
        ]
    )
    image, cell = (assigned >= 0).nonzero(as_tuple=True)
    found = proposals.boxes_cxcywh[image, cell]
    starts = torch.tensor([0] + [len(one) for one in targets], device=image.device).cumsum(0)
    which = starts[image] + assigned[image, cell]
    wanted = torch.cat([one.boxes_cxcywh for one in targets])[which]
    # A large object has a hundred cells, a small one has one: by its square root each counts for something.
    share = which.bincount(minlength=int(starts[-1])).clamp(min=1).float()[which].rsqrt()
    overlap = aligned_iou(cxcywh_to_xyxy(found.detach()), cxcywh_to_xyxy(wanted))
    quality = torch.zeros_like(proposals.objectness)
    quality[image, cell] = overlap
    surprise = (proposals.objectness.sigmoid() - quality).abs().square()
    entropy = F.binary_cross_entropy_with_logits(proposals.objectness, quality, reduction="none")
    weight = torch.ones_like(quality)
    weight[image, cell] = share
    divisor = mean_over_processes(share.sum())
    losses = {
        "proposal_objectness": (weight * surprise * entropy * proposals.inside).sum() / divisor,
        "proposal_l1": (share[:, None] * (found - wanted).abs()).sum() / divisor,
        "proposal_giou": (share * giou_loss(found, wanted)).sum() / divisor,
    }
    total = WEIGHT * torch.stack(list(losses.values())).sum()
    return losses | {"proposals": total, "proposal_iou": overlap.sum() / max(len(image), 1)}
