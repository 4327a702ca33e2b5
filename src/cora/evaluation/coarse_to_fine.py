"""Coarse-to-fine classification of ground-truth regions, beside the flat one: is it better to choose a group first?

The flat way takes the nearest of all class embeddings. The coarse-to-fine way takes the nearest centre of a group of
names, of that group the nearest centre of a subgroup, and of that subgroup the nearest class: a wrong group cannot be
mended, but a class of another group cannot win by chance either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cora.evaluation.bootstrap import BoolArray, Estimate, FloatArray, IntArray, estimate
from cora.evaluation.confusion import nearest_class
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.evaluation.region_accuracy import right_shares
from cora.evaluation.region_change import Change, change_of
from cora.regions import Vocabulary
from cora.regions.groups import TwoLevels


@dataclass(frozen=True)
class CoarseToFine:
    """Top-1 of the boxes of a group's classes, shares in 0..1.

    Attributes:
        group: which group; None for all boxes.
        boxes: how many.
        group_right: boxes for which the nearest centre of a group is that of their class.
        top1: flat (before) and coarse-to-fine (after).
    """

    group: int | None
    boxes: int
    group_right: Estimate
    top1: Change


def choose_coarse_to_fine(regions: Tensor, vocabulary: Vocabulary, levels: TwoLevels) -> tuple[Tensor, Tensor]:
    """Group [n] and class [n] of unit regions [n, D], by way of groups and subgroups of the vocabulary's classes."""
    directions = regions.double()
    groups = (directions @ levels.coarse.centres.T).argmax(dim=1)
    other_group = levels.parents[None] != groups[:, None]
    subgroups = (directions @ levels.fine.centres.T).masked_fill(other_group, -torch.inf).argmax(dim=1)
    other_subgroup = levels.fine.labels[None] != subgroups[:, None]
    cosine = directions @ vocabulary.embeddings.to(directions).T
    return groups, cosine.masked_fill(other_subgroup, -torch.inf).argmax(dim=1)


def measure_coarse_to_fine(
    regions: EmbeddedRegions, vocabulary: Vocabulary, levels: TwoLevels, counts: IntArray
) -> list[CoarseToFine]:
    """Compare both ways with the prompt: for all boxes, then for those of each group's classes that has boxes.

    Args:
        regions: boxes of the vocabulary's classes.
        vocabulary: C classes.
        levels: groups and subgroups of their embeddings.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    """
    groups, fine = choose_coarse_to_fine(regions.prompted, vocabulary, levels)
    flat, own = nearest_class(regions.prompted, vocabulary), levels.coarse.labels[regions.classes]
    rights = [right.numpy() for right in (groups == own, flat == regions.classes, fine == regions.classes)]
    weights = np.concatenate([np.ones((1, counts.shape[1]), dtype=np.int64), counts])
    images = regions.image_index.numpy()

    def among(group: int | None) -> CoarseToFine:
        kept: BoolArray = np.ones(len(own), dtype=np.bool_) if group is None else (own == group).numpy()
        grouped, before, after = (_share(right[kept], images[kept], weights) for right in rights)
        top1 = change_of(before, after)
        return CoarseToFine(group, int(kept.sum()), estimate(float(grouped[0]), grouped[1:]), top1)

    return [among(group) for group in (None, *own.unique().tolist())]


def _share(right: BoolArray, images: IntArray, weights: IntArray) -> FloatArray:
    return right_shares(right, np.zeros(len(right), dtype=np.int64), images, 1, weights)[0]
