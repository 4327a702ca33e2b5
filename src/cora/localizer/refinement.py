"""A second look at the decoder's boxes, as by the box head of a two-stage detector; the paper has none.

To a query, the map is a set of tokens, and it learns from many images only where a box cuts an object. The second look
pools the cells in the box and those around it (RoIAlign, as in Faster R-CNN, Ren et al., 2015), where that can be
seen, corrects the box and says how well it fits. It sees no class. That of `nano-ovcoco` learned how well boxes fit
only from boxes that overlap an object, not from background, where unlabelled objects may be (as OLN does, Kim et al.,
arXiv 2108.06753), so that it is right for novel classes, too (`recipes/nano/refinement.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.localizer.memory import Memory
from cora.localizer.proposals import boxes_between
from cora.roi_align import roi_align

#: Sides of the two pooled regions, as multiples of the box's sides: the box, and the box with its surroundings.
SCALES = (1.0, 1.6)
#: Longest side of a region, as a share of the image's. RoIAlign takes more samples from a map's length on, so that at 1
#: rounding would decide.
LONGEST = 0.99
#: Side of the grid that a region is pooled to, and channels of its cells.
BINS, CHANNELS = 4, 8
#: Fit of every box at the start, a logit.
START_FIT = 4.0
#: A side changes by a factor of up to e^±1.5; the centre moves by up to 1.5 sides.
MAX_CORRECTION = 1.5


class BoxRefinement(nn.Module):
    """Corrects boxes, and judges their fit, by what the finest level of the encoded map shows in and around them.

    Args:
        dim: width of the encoded map.
        hidden: width of the two hidden layers.
    """

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        # Without bias, so that it makes no difference to reduce the channels before pooling, which is cheaper.
        self.reduce = nn.Linear(dim, len(SCALES) * CHANNELS, bias=False)
        self.first = nn.Linear(len(SCALES) * CHANNELS * BINS**2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 5)

    def reset_parameters(self) -> None:
        """Start with boxes as they are, each of which fits."""
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias[0] = START_FIT

    def forward(self, memory: Memory, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """Correct boxes and judge them.

        Args:
            memory: the encoded map.
            boxes_cxcywh: [B, N, 4], 0..1 of the unpadded image.

        Returns:
            The corrected boxes [B, N, 4], and the fit [B, N] of those given: logit of their IoU with an object.
        """
        fit, shift, stretch = self.judge(self.pool(memory, boxes_cxcywh))
        return corrected(boxes_cxcywh, shift, stretch), fit

    def judge(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fit [...] and corrections [..., 2] twice, shift and stretch as in `corrected`, from `pool`'s [..., F]."""
        hidden = F.gelu(self.second(F.gelu(self.first(pooled))))
        fit, shift, stretch = self.head(hidden).float().split([1, 2, 2], dim=-1)
        return fit.squeeze(-1), shift, stretch

    def pool(self, memory: Memory, boxes_cxcywh: Tensor) -> Tensor:
        """What is seen in and around boxes [B, N, 4]: [B, N, F], F = len(SCALES) * CHANNELS * BINS^2."""
        finest = finest_map(memory)
        maps = self.reduce(finest.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).split(CHANNELS, dim=1)
        return pool_cells(memory, maps, boxes_cxcywh).flatten(2)


def finest_map(memory: Memory) -> Tensor:
    """The finest level [B, dim, h, w] of an encoded map."""
    height, width, _ = memory.levels[0]
    cells: Tensor = memory.tokens[:, : height * width].transpose(1, 2).unflatten(-1, (height, width))
    return cells


def pool_cells(memory: Memory, maps: Sequence[Tensor], boxes_cxcywh: Tensor) -> Tensor:
    """Pool boxes [B, N, 4] and their surroundings, each region from a map of its own.

    Args:
        memory: the encoded map, for the extents of the images.
        maps: [B, C, h, w] for each of `SCALES`, of the size of the memory's finest level.
        boxes_cxcywh: 0..1 of the unpadded image.

    Returns:
        [B, N, len(SCALES), C, BINS, BINS].
    """
    extents = memory.extents_hw * memory.levels[0].scale
    regions = [scaled(boxes_cxcywh, scale) for scale in SCALES]
    return torch.stack(
        [roi_align(one, region, extents, bins=BINS) for one, region in zip(maps, regions, strict=True)], dim=2
    )


def scaled(boxes_cxcywh: Tensor, scale: float) -> Tensor:
    """Boxes [..., 4] around the same centres, with sides `scale` times as long, at most `LONGEST`."""
    centre, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([centre, (scale * size).clamp(max=LONGEST)], dim=-1)


def corrected(boxes_cxcywh: Tensor, shift: Tensor, stretch: Tensor) -> Tensor:
    """Boxes [..., 4] moved by `shift` [..., 2] (x, y) sides, with sides e^`stretch` [..., 2] times as long, in 0..1."""
    centre, size = boxes_cxcywh.split(2, dim=-1)
    centre = centre + shift.clamp(-MAX_CORRECTION, MAX_CORRECTION) * size
    size = size * stretch.clamp(-MAX_CORRECTION, MAX_CORRECTION).exp()
    return boxes_between(centre - size / 2, centre + size / 2)


def product_logit(first: Tensor, second: Tensor) -> Tensor:
    """Logit of the product of two probabilities that are given as logits: log of p q / (1 - p q)."""
    return -torch.stack([-first, -second, -first - second]).logsumexp(dim=0)
