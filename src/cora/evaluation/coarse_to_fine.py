"""Coarse-to-fine classification of ground-truth regions, beside the flat one: is it better to choose a group first?

The flat way takes the nearest of all class embeddings. The coarse-to-fine way takes the nearest centre of a group of
classes, of that group the nearest centre of a subgroup, and of that subgroup the nearest class: a wrong group cannot be
mended, but a class of another group cannot win by chance either. Class embeddings are those of the names, or the mean
regions of the classes in other images, as exemplars are.
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
    """Top-1 of boxes, shares in 0..1.

    Attributes:
        by: what stands for a class, "names" or "examples".
        group: of names, to whose classes the boxes belong; None for all boxes.
        boxes: how many.
        group_right: boxes for which the nearest centre of a group is that of their class.
        top1: flat (before) and coarse-to-fine (after).
    """

    by: str
    group: int | None
    boxes: int
    group_right: Estimate
    top1: Change


def choose_coarse_to_fine(regions: Tensor, embeddings: Tensor, levels: TwoLevels) -> tuple[Tensor, Tensor]:
    """Group [n] and class [n] of unit regions [n, D], by way of groups and subgroups of class embeddings [C, D]."""
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
    """Compare both ways with the prompt by names: for all boxes, then for those of each group's classes that has boxes.

    Args:
        regions: boxes of C classes.
        embeddings: [C, D] of the class names.
        levels: groups and subgroups of these.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    """
    rights, own = _rights(regions.prompted, regions.classes, embeddings, levels), levels.coarse.labels[regions.classes]
    kept = {None: torch.ones_like(own, dtype=torch.bool)} | {group: own == group for group in own.unique().tolist()}
    return [
        _measured("names", group, rights[:, part], regions.image_index[part], counts) for group, part in kept.items()
    ]


def measure_by_examples(
    regions: EmbeddedRegions, *, count: int, subgroups: int, seed: int, counts: IntArray
) -> CoarseToFine | None:
    """The same by examples: a class is the mean of its regions in every other image, measured on the images between.

    Both halves take turns. A class without a region in the half of the examples is not chosen there.

    Args:
        regions: boxes of C classes.
        count: groups of classes; as many as classes where those are fewer.
        subgroups: of each group.
        seed: of the grouping.
        counts: [R, images] multiplicities for the intervals.

    Returns:
        For all boxes; None where a half of the images has no box.
    """
    halves = [regions.image_index % 2 == half for half in (0, 1)]
    if not all(bool(half.any()) for half in halves):
        return None
    rights = torch.zeros(3, len(regions), dtype=torch.bool)
    for tested, examples in (halves, halves[::-1]):
        known, places = regions.classes[examples].unique(return_inverse=True)
        sums = torch.zeros(len(known), regions.prompted.shape[1]).index_add_(0, places, regions.prompted[examples])
        means = F.normalize(sums, dim=-1)
        levels = two_levels(means, min(count, len(known)), subgroups, seed=seed)
        # Place of each class among the known ones, -1 for one that is never right.
        place = torch.full((len(regions.class_names),), -1).index_copy_(0, known, torch.arange(len(known)))
        rights[:, tested] = _rights(regions.prompted[tested], place[regions.classes[tested]], means, levels)
    return _measured("examples", None, rights, regions.image_index, counts)


def _rights(regions: Tensor, classes: Tensor, embeddings: Tensor, levels: TwoLevels) -> Tensor:
    """Whether the group, the flat class and the coarse-to-fine class are right: [3, n] bool; class -1 never is."""
    groups, fine = choose_coarse_to_fine(regions, embeddings, levels)
    grouped = (groups == levels.coarse.labels[classes]) & (classes >= 0)
    return torch.stack([grouped, nearest_class(regions, embeddings) == classes, fine == classes])


def _measured(by: str, group: int | None, rights: Tensor, image_index: Tensor, counts: IntArray) -> CoarseToFine:
    weights = whole_first(counts)
    one = np.zeros(len(image_index), dtype=np.int64)
    grouped, before, after = (right_shares(right, one, image_index.numpy(), 1, weights)[0] for right in rights.numpy())
    return CoarseToFine(by, group, len(one), estimate_of(grouped), change_of(before, after))
