"""Anchors proposed from the encoded map ("two-stage" in Deformable DETR), instead of learned ones as in the paper.

Every cell predicts an objectness and a *reach*: the distances (left, top, right, bottom) from its centre to the sides
of a box, as in FCOS. The heads are class-agnostic. The best boxes become the anchors, which are then pre-matched and
refined like learned ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from cora.boxes import cxcywh_to_xyxy
from cora.localizer.memory import Memory

#: Initial reach in cells, and the most that the prediction changes it: by a factor of e^±4. Not a share of the image,
#: since a cell's receptive field does not depend on the image size.
START_REACH, MAX_LOG_REACH = 2.5, 4.0
#: Initial objectness of every box, since most cells are background (as in RetinaNet).
OBJECTNESS_PRIOR = 0.01
#: Least width and height of a box, 0..1 of the image; the decoder divides by them.
SMALLEST_SIDE = 1e-3


@dataclass(frozen=True)
class Proposals:
    """The proposed boxes of all M cells.

    Attributes:
        boxes_cxcywh: [B, M, 4], 0..1 of the unpadded image; cells row by row, one level after the other.
        objectness: [B, M] logits.
        centres: [B, M, 2] (x, y) of the cells, 0..1 of the unpadded image; above 1 where the map is padded.
        inside: [B, M] bool, False where the map is padded.
    """

    boxes_cxcywh: Tensor
    objectness: Tensor
    centres: Tensor
    inside: Tensor

    def of(self, images: Tensor) -> Proposals:
        """The proposals of the images with these indices [n] in the batch; an index may occur several times."""
        return Proposals(self.boxes_cxcywh[images], self.objectness[images], self.centres[images], self.inside[images])

    def best(self, count: int, *, iou: float = 0.7, considered: int | None = None) -> Tensor:
        """The boxes [B, count, 4] of highest objectness after class-agnostic NMS.

        If NMS leaves fewer than `count`, suppressed boxes follow, best first. If the map has fewer cells than `count`,
        its boxes are repeated.

        Args:
            count: boxes per image.
            iou: NMS threshold, 0..1.
            considered: apply NMS only to this many cells of highest objectness; None for all.
        """
        chosen = []
        scores = self.objectness.masked_fill(~self.inside, -torch.inf).float()
        candidates = self.boxes_cxcywh
        if considered is not None and considered < scores.shape[1]:
            scores, best = scores.topk(considered, dim=1)
            candidates = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 4))
        for boxes, score in zip(candidates, scores, strict=True):
            order = score.argsort(descending=True)
            kept = nms(cxcywh_to_xyxy(boxes.float()), score, iou)
            suppressed = torch.ones_like(score, dtype=torch.bool).index_fill(0, kept, False)
            ranked = torch.cat([kept, order[suppressed[order]]])
            ranked = ranked[torch.isfinite(score[ranked])]
            chosen.append(boxes[ranked[torch.arange(count, device=ranked.device) % len(ranked)]])
        return torch.stack(chosen)


class AnchorProposals(nn.Module):
    """Proposes a box at every cell: two 3 x 3 convolutions, then a head for objectness and one for the reach.

    Args:
        dim: channels of the encoded map; a multiple of 16.
        count: number of boxes per image that become anchors.
    """

    def __init__(self, *, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.trunk = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.GroupNorm(16, dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.GroupNorm(16, dim),
            nn.ReLU(),
        )
        self.objectness_head = nn.Conv2d(dim, 1, 1)
        self.reach_head = nn.Conv2d(dim, 4, 1)

    def reset_parameters(self) -> None:
        """Initialise the heads: every box starts as a square around its cell, objectness at `OBJECTNESS_PRIOR`."""
        nn.init.zeros_(self.reach_head.weight)
        nn.init.constant_(self.objectness_head.bias, math.log(OBJECTNESS_PRIOR / (1 - OBJECTNESS_PRIOR)))  # type: ignore[arg-type]

    def forward(self, memory: Memory) -> Proposals:
        """Propose a box at every cell of an encoded map."""
        hidden = self.trunk(memory.tokens.transpose(1, 2).unflatten(-1, memory.size_hw))
        # In float32 even under mixed precision, whose rounding would move boxes.
        reach = self.reach_head(hidden).flatten(2).transpose(1, 2).float()
        extents_whwh = memory.extents_hw.float().flip(-1).repeat(1, 2)[:, None]
        reach = START_REACH * reach.clamp(-MAX_LOG_REACH, MAX_LOG_REACH).exp() / extents_whwh
        centres, inside = _cells(memory)
        return Proposals(
            boxes_cxcywh=boxes_between(centres - reach[..., :2], centres + reach[..., 2:]),
            objectness=self.objectness_head(hidden).flatten(1).float(),
            centres=centres,
            inside=inside,
        )


def boxes_between(first: Tensor, last: Tensor) -> Tensor:
    """Boxes [..., 4] cxcywh from their upper left and lower right corners [..., 2] (x, y), clipped to 0..1.

    Widths and heights are at least `SMALLEST_SIDE`.
    """
    first, last = first.clamp(0, 1), last.clamp(0, 1)
    return torch.cat([(first + last) / 2, (last - first).clamp(min=SMALLEST_SIDE)], dim=-1)


def _cells(memory: Memory) -> tuple[Tensor, Tensor]:
    """Centres [B, M, 2] of all cells, and whether they are inside the image [B, M], as in `Proposals`."""
    height, width = memory.size_hw
    extents = memory.extents_hw.float()
    y = (torch.arange(height, device=extents.device) + 0.5) / extents[:, :1]
    x = (torch.arange(width, device=extents.device) + 0.5) / extents[:, 1:]
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return grid.flatten(1, 2), (grid < 1).all(-1).flatten(1)
