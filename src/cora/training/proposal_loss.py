"""What teaches the anchor proposals: the cells in the middle of a box find it, all others are background.

Assignment by centre sampling (FCOS, Tian et al. 2019), objectness towards the overlap that the cell's own box reaches
(quality focal loss, Li et al. 2020), so that the best box of an object ranks first. Classes play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.boxes import aligned_giou, aligned_iou, cxcywh_to_xyxy
from cora.localizer import Proposals
from cora.structures import Targets
from cora.training.losses import mean_over_processes

#: Share of a box, around its centre, whose cells are responsible for it.
CENTRAL_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ProposalLossWeights:
    """Weights of the terms in the total."""

    objectness: float = 2.0
    l1: float = 2.0
    giou: float = 2.0


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


def proposal_losses(
    proposals: Proposals, targets: Sequence[Targets], weights: ProposalLossWeights | None = None
) -> dict[str, Tensor]:
    """Losses of the proposals of a batch, each cell weighed by (cells of its object)^-0.5, divided by the sum of these
    weights over all assigned cells (averaged over processes, at least 1).

    Returns:
        Scalars `proposal_objectness`, `proposal_l1`, `proposal_giou`, unweighted, and `proposals`, their weighted sum;
        `proposal_iou`, the mean overlap of assigned cells (for reading only).
    """
    weights = weights or ProposalLossWeights()
    assigned = torch.stack(
        [
            assign_cells(centres, inside, one.boxes_cxcywh)
            for centres, inside, one in zip(proposals.centres, proposals.inside, targets, strict=True)
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
    giou = aligned_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))
    losses = {
        "proposal_objectness": (weight * surprise * entropy * proposals.inside).sum() / divisor,
        "proposal_l1": (share[:, None] * (found - wanted).abs()).sum() / divisor,
        "proposal_giou": (share * (1 - giou)).sum() / divisor,
    }
    total = (
        weights.objectness * losses["proposal_objectness"]
        + weights.l1 * losses["proposal_l1"]
        + weights.giou * losses["proposal_giou"]
    )
    return losses | {"proposals": total, "proposal_iou": overlap.sum() / max(len(image), 1)}
