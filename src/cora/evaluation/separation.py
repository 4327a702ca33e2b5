"""Separation of labelled regions: the silhouette (Rousseeuw, 1987) with 1 - cosine as the distance."""

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
    """Silhouette (b - a) / max(a, b) of every region.

    a is its mean distance to the other regions of its label, and b that to the regions of the nearest other label. The
    silhouette is 1 for a region far from all other labels, 0 on the border, and negative for one nearer to another
    label than to its own. Since the mean of 1 - cosine follows from the sum of the directions, n regions of L labels
    take n L D steps.

    Args:
        regions: [n, D], none of length 0.
        labels: [n] int64.

    Returns:
        [n] float64 in -1..1; 0 for the only region of a label, NaN where all regions have one label.
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
    # Rounding may make the distance of equal directions negative.
    mine, others = mine.clamp(min=0), others.clamp(min=0)
    larger = torch.maximum(mine, others)
    return torch.where(alone | (larger < 1e-12), 0.0, (others - mine) / larger.clamp(min=1e-12))


def separation(regions: EmbeddedRegions, labels: Tensor, counts: IntArray) -> Change:
    """Mean silhouette of the boxes without the region prompt (before) and with it (after).

    Args:
        regions: embeddings of the boxes without and with the region prompt.
        labels: [n] int64, such as their classes, or the groups of these.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`). They weight the silhouettes,
            which are computed once, from all regions.
    """
    classes, images = np.zeros(len(regions), dtype=np.int64), regions.image_index.numpy()
    before, after = (
        right_shares(silhouette(way, labels).numpy(), classes, images, 1, whole_first(counts))[0]
        for way in (regions.plain, regions.prompted)
    )
    return change_of(before, after)
