"""Anchors proposed from the encoded map ("two-stage" in DETR), in place of learned ones.

Every cell predicts an objectness and its reach: the distances from its centre to the four sides of a box, as in FCOS.
The best boxes become the anchors, which are pre-matched and refined. The heads are class-agnostic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from cora.boxes import cxcywh_to_xyxy
from cora.localizer.memory import Memory

#: Initial reach, and the most that training changes it: by a factor of e^±4. In cells of the map, not in shares of the
#: image, since a cell's receptive field does not depend on the image size.
START_REACH, MAX_LOG_REACH = 2.5, 4.0
OBJECTNESS_PRIOR = 0.01
SMALLEST_SIDE = 1e-3


@dataclass(frozen=True)
class Proposals:
    """The proposals of all cells of a map.

    Attributes:
        boxes_cxcywh: [B, M, 4], 0..1 of the unpadded image, cells row by row.
        objectness: [B, M] logits.
        centres: [B, M, 2] (x, y) of the cells, 0..1 of the unpadded image; above 1 where the map is padded.
        inside: [B, M] bool, False where the map is padded.
    """

    boxes_cxcywh: Tensor
    objectness: Tensor
    centres: Tensor
    inside: Tensor

    def of(self, images: Tensor) -> Proposals:
        """The proposals of some images by their places in the batch; one may come several times."""
        return Proposals(self.boxes_cxcywh[images], self.objectness[images], self.centres[images], self.inside[images])

    def best(self, count: int, *, iou: float = 0.7, considered: int | None = None) -> Tensor:
        """The `count` boxes [B, count, 4] of highest objectness after suppression of boxes with an IoU above `iou`.

        If too few are left, suppressed boxes follow, best first. A map with fewer than `count` cells repeats its boxes.

        Args:
            count: boxes per image.
            iou: a box that overlaps a better one by more is suppressed, 0..1.
            considered: use only this many cells, those of highest objectness; None for all.
        """
        chosen = []
        scores = self.objectness.masked_fill(~self.inside, -torch.inf).float()
        cells = self.boxes_cxcywh
        if considered is not None and considered < scores.shape[1]:
            scores, best = scores.topk(considered, dim=1)
            cells = cells.gather(1, best.unsqueeze(-1).expand(-1, -1, 4))
        for boxes, score in zip(cells, scores, strict=True):
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
        count: boxes per image that become anchors.
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

    def draw_weights(self) -> None:
        """Initialise the heads: boxes are squares around their cells, objectness is a small prior."""
        nn.init.zeros_(self.reach_head.weight)
        nn.init.constant_(self.objectness_head.bias, math.log(OBJECTNESS_PRIOR / (1 - OBJECTNESS_PRIOR)))  # type: ignore[arg-type]

    def forward(self, memory: Memory) -> Proposals:
        """Propose a box at every cell of an encoded map."""
        hidden = self.trunk(memory.tokens.transpose(1, 2).unflatten(-1, memory.size_hw))
        # Boxes and objectness in float32 even under mixed precision, whose rounding moves boxes.
        reach = self.reach_head(hidden).flatten(2).transpose(1, 2).float()
        cells = memory.extents_hw.float().flip(-1).repeat(1, 2)[:, None]
        reach = START_REACH * reach.clamp(-MAX_LOG_REACH, MAX_LOG_REACH).exp() / cells
        centres, inside = _cells(memory)
        return Proposals(
            boxes_cxcywh=boxes_between(centres - reach[..., :2], centres + reach[..., 2:]),
            objectness=self.objectness_head(hidden).flatten(1).float(),
            centres=centres,
            inside=inside,
        )


def boxes_between(first: Tensor, last: Tensor) -> Tensor:
    """Boxes [..., 4] cxcywh from two corners [..., 2] (x, y), clipped to 0..1; sides are at least `SMALLEST_SIDE`."""
    lower, upper = first.clamp(0, 1), last.clamp(0, 1)
    return torch.cat([(lower + upper) / 2, (upper - lower).clamp(min=SMALLEST_SIDE)], dim=-1)


def _cells(memory: Memory) -> tuple[Tensor, Tensor]:
    """`centres` and `inside` of `Proposals`."""
    height, width = memory.size_hw
    extents = memory.extents_hw.float()
    y = (torch.arange(height, device=extents.device) + 0.5) / extents[:, :1]
    x = (torch.arange(width, device=extents.device) + 0.5) / extents[:, 1:]
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return grid.flatten(1, 2), (grid < 1).all(-1).flatten(1)
