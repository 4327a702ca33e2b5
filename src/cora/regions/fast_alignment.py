"""Fast alignment: a linear map that moves embeddings of fast pooling towards those of exact pooling.

Fast pooling reads a region from one map of the whole image; exact pooling runs layer4 on each region. Much of the
difference depends only on the size and place of a region. `cora align` fits that part in closed form, from images
without labels, so that fast scores come closer to exact ones. The paper has no such map; at its start, zero, fast
pooling is as published.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Ridge strength, relative to the mean diagonal of the inputs' Gram matrix.
RIDGE = 0.01
#: With fewer regions the ridge is as strong as with this many, so that a few images cannot change the map much.
FEW_REGIONS = 10_000
SMALLEST_SIDE = 1e-4


class FastAlignment(nn.Module):
    """normalize(e + W [e, cx, cy, log w, log h] + b) for a fast embedding e of the box (cx, cy, w, h), 0..1.

    Args:
        embed_dim: width D of embeddings.
    """

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.shift = nn.Linear(embed_dim + 4, embed_dim)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        self.requires_grad_(False)  # fitted in closed form by `AlignmentFit`

    def forward(self, regions: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """Unit embeddings [..., D] and boxes [..., 4] in 0..1 of the unpadded image to unit embeddings [..., D]."""
        return F.normalize(regions + self.shift(features(regions, boxes_cxcywh)), dim=-1)


def features(regions: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Inputs of the linear map: [..., D] and boxes [..., 4] to [..., D + 4]."""
    places, sides = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([regions, places.to(regions), sides.clamp(min=SMALLEST_SIDE).log().to(regions)], dim=-1)


class AlignmentFit:
    """Ridge regression from fast to exact embeddings. It keeps sums only, so memory does not grow with the regions.

    Minimises sum |exact - fast - shift(fast, box)|^2 + pull |shift - start|^2 (Hoerl & Kennard, 1970).

    Args:
        start: the alignment that the ridge pulls towards.
    """

    def __init__(self, start: FastAlignment) -> None:
        self.start, self.regions = start, 0
        width, embed_dim = start.shift.in_features + 1, start.shift.out_features
        self._inputs = torch.zeros(width, width, dtype=torch.float64)
        self._outputs = torch.zeros(width, embed_dim, dtype=torch.float64)

    def add(self, fast: Tensor, exact: Tensor, boxes_cxcywh: Tensor) -> None:
        """Add N regions: both embeddings [N, D], unit norm, and boxes [N, 4], 0..1 of the unpadded image."""
        inputs = features(fast, boxes_cxcywh).detach().cpu().double()
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        self.regions += len(inputs)
        self._inputs += inputs.T @ inputs
        self._outputs += inputs.T @ (exact - fast).detach().cpu().double()

    @torch.no_grad()
    def solve(self) -> FastAlignment:
        """The best alignment of the regions so far; a copy of the start where there are none."""
        alignment = copy.deepcopy(self.start)
        if self.regions:
            shift = alignment.shift
            start = torch.cat([shift.weight.T, shift.bias[None]]).cpu().double()
            mean_square = self._inputs.diagonal().mean() / self.regions
            pull = RIDGE * mean_square * max(self.regions, FEW_REGIONS)
            pulled = self._inputs + pull * torch.eye(len(self._inputs), dtype=torch.float64)
            found = torch.linalg.solve(pulled, self._outputs + pull * start)
            shift.weight.copy_(found[:-1].T)
            shift.bias.copy_(found[-1])
        return alignment
