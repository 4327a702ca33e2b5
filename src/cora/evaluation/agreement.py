"""Agreement of clusters with classes: purity, normalised mutual information and adjusted Rand index.

All follow from the number of boxes of each class in each cluster (Hubert & Arabie, 1985; Strehl & Ghosh, 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Boxes counted by class and cluster.

    Attributes:
        boxes: [C, K] int64, boxes of each class in each cluster.
    """

    boxes: Tensor

    @classmethod
    def of(cls, classes: Tensor, clusters: Tensor, shape: tuple[int, int]) -> Agreement:
        """Count boxes by their class indices [n] and cluster indices [n].

        Args:
            classes: [n] int64.
            clusters: [n] int64.
            shape: number of classes and number of clusters.
        """
        table = torch.zeros(shape, dtype=torch.int64)
        table.index_put_((classes, clusters), torch.tensor(1), accumulate=True)
        return cls(table)

    @property
    def purity(self) -> float:
        """Share of the boxes that belong to the most frequent class of their cluster, 0..1."""
        return int(self.boxes.amax(dim=0).sum()) / int(self.boxes.sum())

    @property
    def mutual_information(self) -> float:
        """Mutual information divided by the mean of both entropies: 0 for independent divisions, 1 for equal ones."""
        joint = self.boxes.double() / self.boxes.sum()
        by_class, by_cluster = (_entropy(joint.sum(dim=dim)) for dim in (1, 0))
        if by_class + by_cluster == 0:
            return 1.0  # one class, one cluster
        return max(0.0, 2 * (by_class + by_cluster - _entropy(joint.flatten())) / (by_class + by_cluster))

    @property
    def adjusted_rand(self) -> float:
        """Agreement of both divisions on pairs of boxes, corrected for chance: 1 for equal ones, 0 for random ones."""
        together, classes, clusters = (_pairs(part) for part in (self.boxes, self.boxes.sum(1), self.boxes.sum(0)))
        pairs = math.comb(int(self.boxes.sum()), 2)
        expected = classes * clusters / pairs if pairs else 0.0
        most = (classes + clusters) / 2
        return 1.0 if most == expected else (together - expected) / (most - expected)

    def main_cluster(self) -> list[tuple[int, float] | None]:
        """For each class the cluster with most of its boxes, and the share of them; None for a class without a box."""
        totals = self.boxes.sum(dim=1).tolist()
        most, places = self.boxes.max(dim=1)
        found = zip(places.tolist(), most.tolist(), totals, strict=True)
        return [(place, boxes / total) if total else None for place, boxes, total in found]


def _entropy(shares: Tensor) -> float:
    return float(-torch.xlogy(shares, shares).sum())


def _pairs(boxes: Tensor) -> float:
    """Number of pairs of boxes within the cells of a table."""
    counts = boxes.double()
    return float((counts * (counts - 1) / 2).sum())
