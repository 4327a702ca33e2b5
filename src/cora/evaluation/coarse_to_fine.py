"""Compares coarse-to-fine with flat classification of ground-truth regions: is it better to choose a group first?

Flat classification takes the nearest of all class embeddings. Coarse-to-fine classification takes the nearest centre of
a group of classes, then the nearest centre of its subgroups, then the nearest class of the subgroup. It cannot recover
from a wrong group, but no class of another group can win by chance. Class embeddings are those of the names, or the
mean regions of the classes in other images, as exemplars are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cora.evaluation.bootstrap import Estimate, IntArray, estimate_of, whole_first
from cora.evaluation.confusion import nearest_class
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.evaluation.region_accuracy import right_shares
from cora.evaluation.region_change import Change, change_of
from cora.regions.groups import TwoLevels, two_levels


@dataclass(frozen=True)
class CoarseToFine:
    """Top-1 accuracy of both ways, as shares of the boxes in 0..1.

    Attributes:
        by: what class embeddings are made from, "names" or "examples".
        group: group of names that the classes of the boxes belong to; None for all boxes.
        boxes: number of boxes.
        group_right: share of the boxes whose nearest group centre is that of their class's group.
        top1: accuracy of flat (before) and of coarse-to-fine classification (after).
    """

    by: str
    group: int | None
    boxes: int
    group_right: Estimate
    top1: Change


def choose_coarse_to_fine(regions: Tensor, embeddings: Tensor, levels: TwoLevels) -> tuple[Tensor, Tensor]:
    """Group [n] and class [n] that coarse-to-fine classification chooses.

    Args:
        regions: [n, D] unit embeddings.
        embeddings: [C, D] of the classes.
        levels: groups and subgroups of these.
    """
    directions = regions.double()
    groups = (directions @ levels.coarse.centres.T).argmax(dim=1)
    other_group = levels.parents[None] != groups[:, None]
    subgroups = (directions @ levels.fine.centres.T).masked_fill(other_group, -torch.inf).argmax(dim=1)
    other_subgroup = levels.fine.labels[None] != subgroups[:, None]
    cosine = directions @ embeddings.to(directions).T
    return groups, cosine.masked_fill(other_subgroup, -torch.inf).argmax(dim=1)


def measure_coarse_to_fine(
    regions: EmbeddedRegions, embeddings: Tensor, levels: TwoLevels, counts: IntArray
) -> list[CoarseToFine]:
    """Compare both ways by names: for all boxes, and for the boxes of each group of classes that has any.

    Args:
        regions: boxes of C classes; their embeddings with the region prompt are used.
        embeddings: [C, D] of the class names.
        levels: groups and subgroups of these.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    """
    right = _right(regions.prompted, regions.classes, embeddings, levels)
    groups = levels.coarse.labels[regions.classes]
    masks = {None: torch.ones_like(groups, dtype=torch.bool)} | {g: groups == g for g in groups.unique().tolist()}
    return [
        _measured("names", group, right[:, mask], regions.image_index[mask], counts) for group, mask in masks.items()
    ]


def measure_by_examples(
    regions: EmbeddedRegions, *, count: int, subgroups: int, seed: int, counts: IntArray
) -> CoarseToFine | None:
    """Compare both ways by examples: the embedding of a class is the mean of its regions in other images.

    The images are split in two halves, every other image. Each half is measured with the other as examples. A class
    without a region among the examples cannot be chosen.

    Args:
        regions: boxes of C classes.
        count: number of groups of classes, at most the number of classes.
        subgroups: number of subgroups of each group.
        seed: seed of the grouping.
        counts: [R, images] multiplicities for the intervals.

    Returns:
        The comparison for all boxes; None where one half of the images has no box.
    """
    halves = [regions.image_index % 2 == half for half in (0, 1)]
    if not all(bool(half.any()) for half in halves):
        return None
    right = torch.zeros(3, len(regions), dtype=torch.bool)
    for tested, examples in (halves, halves[::-1]):
        known, places = regions.classes[examples].unique(return_inverse=True)
        sums = torch.zeros(len(known), regions.prompted.shape[1]).index_add_(0, places, regions.prompted[examples])
        means = F.normalize(sums, dim=-1)
        levels = two_levels(means, min(count, len(known)), subgroups, seed=seed)
        # Index of each class among the known ones; -1 for an unknown class, which is never right.
        place = torch.full((len(regions.class_names),), -1).index_copy_(0, known, torch.arange(len(known)))
        right[:, tested] = _right(regions.prompted[tested], place[regions.classes[tested]], means, levels)
    return _measured("examples", None, right, regions.image_index, counts)


def _right(regions: Tensor, classes: Tensor, embeddings: Tensor, levels: TwoLevels) -> Tensor:
    """Whether the group, the flat and the coarse-to-fine class of each region are right: [3, n]; class -1 never is."""
    groups, fine = choose_coarse_to_fine(regions, embeddings, levels)
    grouped = (groups == levels.coarse.labels[classes]) & (classes >= 0)
    return torch.stack([grouped, nearest_class(regions, embeddings) == classes, fine == classes])


def _measured(by: str, group: int | None, right: Tensor, image_index: Tensor, counts: IntArray) -> CoarseToFine:
    weights = whole_first(counts)
    one_class = np.zeros(len(image_index), dtype=np.int64)
    grouped, before, after = (right_shares(row, one_class, image_index.numpy(), 1, weights)[0] for row in right.numpy())
    return CoarseToFine(by, group, len(image_index), estimate_of(grouped), change_of(before, after))
