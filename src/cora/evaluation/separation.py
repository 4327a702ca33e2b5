"""How clearly labelled regions lie apart: the silhouette (Rousseeuw, 1987) with 1 - cosine as the distance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cora.evaluation.bootstrap import IntArray, whole_first
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.evaluation.region_accuracy import right_shares
from cora.evaluation.region_change import Change, change_of


def silhouette(regions: Tensor, labels: Tensor) -> Tensor:
    """(b - a) / max(a, b) of every region: a its mean distance to its own label's others, b to the nearest other label.

    1 is far from all others, 0 on the border, negative nearer to another label than to its own. Distances are
    1 - cosine, whose mean follows from the sum of a label's directions: n regions of L labels cost n L D steps.

    Args:
        regions: [n, D] of any length but 0.
        labels: [n] int64.

    Returns:
        [n] float64 in -1..1; 0 for a region that is alone under its label, NaN where all have one label.
    """
    kinds, own = labels.unique(return_inverse=True)
    if len(kinds) < 2:
        return torch.full((len(labels),), torch.nan, dtype=torch.float64)
    directions = F.normalize(regions.double(), dim=-1)
    sums = torch.zeros(len(kinds), directions.shape[1], dtype=torch.float64).index_add_(0, own, directions)
    sizes = own.bincount()
    similar = directions @ sums.T
    others = (1 - similar / sizes).scatter(1, own[:, None], torch.inf).amin(dim=1)
    alone = sizes[own] == 1
    mine = 1 - (similar.gather(1, own[:, None])[:, 0] - 1) / (sizes[own] - 1).clamp(min=1)
    # Equal directions have a distance of 0 but for rounding.
    mine, others = mine.clamp(min=0), others.clamp(min=0)
    larger = torch.maximum(mine, others)
    return torch.where(alone | (larger < 1e-12), 0.0, (others - mine) / larger.clamp(min=1e-12))


def separation(regions: EmbeddedRegions, labels: Tensor, counts: IntArray) -> Change:
    """Mean silhouette without the prompt, with it, and the change, over boxes.

    Args:
        regions: both ways embedded.
        labels: [n] int64, such as their classes, or the groups of these.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`). A resample weighs the
            silhouettes of the boxes; the regions that they are compared with stay the same.
    """
    classes, images = np.zeros(len(regions), dtype=np.int64), regions.image_index.numpy()
    before, after = (
        right_shares(silhouette(way, labels).numpy(), classes, images, 1, whole_first(counts))[0]
        for way in (regions.plain, regions.prompted)
    )
    return change_of(before, after)
