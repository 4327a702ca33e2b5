"""Fast alignment: a linear correction of fast embeddings towards exact ones. It is not in the paper.

Fast pooling reads a region from one map of the whole image; exact pooling runs layer4 on each region. Much of the
difference between their embeddings depends only on the size and position of the region. `cora align` learns that part
by ridge regression from images without labels, so that fast scores come closer to exact ones. Before the fit the
correction is zero, and fast pooling is as published.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Ridge strength, relative to the mean diagonal of the inputs' Gram matrix.
RIDGE = 0.01
#: Fewer regions are regularised as strongly as this many, so that a few images cannot change the correction much.
FEW_REGIONS = 10_000
#: Widths and heights are clamped to this share of the image before their logarithm.
SMALLEST_SIDE = 1e-4


class FastAlignment(nn.Module):
    """Maps the fast embedding e of a box (cx, cy, w, h) to normalize(e + W [e, cx, cy, log w, log h] + b).

    Args:
        embed_dim: width D of the embeddings.
    """

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.shift = nn.Linear(embed_dim + 4, embed_dim)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        self.requires_grad_(False)  # fitted in closed form by `AlignmentFit`

    def forward(self, regions: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """Correct unit embeddings [..., D] of boxes [..., 4], 0..1 of the unpadded image: unit embeddings [..., D]."""
        return F.normalize(regions + self.shift(features(regions, boxes_cxcywh)), dim=-1)


def features(regions: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Inputs [..., D + 4] of the linear map from embeddings [..., D] and boxes [..., 4]."""
    centres, sides = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([regions, centres.to(regions), sides.clamp(min=SMALLEST_SIDE).log().to(regions)], dim=-1)


class AlignmentFit:
    """Ridge regression (Hoerl & Kennard, 1970) from fast to exact embeddings.

    Minimises sum |exact - fast - shift(fast, box)|^2 + ridge |shift - start|^2 over the linear map `shift`. It keeps
    only the normal equations, so memory does not grow with the number of regions.

    Args:
        start: the alignment that the solution stays close to.
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
        """Fit an alignment to the regions added so far; a copy of `start` if there are none."""
        alignment = copy.deepcopy(self.start)
        if self.regions:
            shift = alignment.shift
            start = torch.cat([shift.weight.T, shift.bias[None]]).cpu().double()
            mean_square = self._inputs.diagonal().mean() / self.regions
            ridge = RIDGE * mean_square * max(self.regions, FEW_REGIONS)
            gram = self._inputs + ridge * torch.eye(len(self._inputs), dtype=torch.float64)
            solution = torch.linalg.solve(gram, self._outputs + ridge * start)
            shift.weight.copy_(solution[:-1].T)
            shift.bias.copy_(solution[-1])
        return alignment
