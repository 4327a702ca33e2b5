"""Groups of regions with similar embeddings, compared with the classes and with the groups of the class names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cora.evaluation.agreement import Agreement
from cora.evaluation.bootstrap import RESAMPLES, resample_counts
from cora.evaluation.coarse_to_fine import CoarseToFine, measure_by_examples, measure_coarse_to_fine
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.evaluation.region_change import Change
from cora.evaluation.separation import separation, silhouette
from cora.plots import Points, draw_points
from cora.regions import Vocabulary
from cora.regions.groups import Clusters, TwoLevels, two_levels

#: Number of class names that describe a group of regions.
_NAMES = 2


@dataclass(frozen=True)
class RegionGroup:
    """One group or subgroup of regions.

    Attributes:
        boxes: number of boxes.
        classes: annotated class -> number of its boxes in the group, most first.
        nearest: the class names nearest to the centre of the group, the nearest first. With several groups, the mean
            is subtracted from the centres and from the names: a distance between all regions and all names says nothing
            about one group.
    """

    boxes: int
    classes: dict[str, int]
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class ClassRegions:
    """How the boxes of a class are grouped.

    Attributes:
        name: class name.
        boxes: number of its boxes.
        subgroup: the subgroup of regions, with the region prompt, that has most of its boxes.
        share: share of its boxes in this subgroup, 0..1.
        silhouette_plain: mean silhouette of its boxes without the region prompt, -1..1; NaN where there is one class.
        silhouette_prompted: the same with the region prompt.
    """

    name: str
    boxes: int
    subgroup: int
    share: float
    silhouette_plain: float
    silhouette_prompted: float


@dataclass(frozen=True)
class RegionGroups:
    """Groups of regions and the measurements on them.

    Attributes:
        regions: the boxes; all labels are in their order.
        vocabulary: their classes.
        names: groups and subgroups of the class names.
        prompted: groups and subgroups of the regions with the region prompt.
        plain: groups and subgroups of the regions without it.
        of_classes: separation of the classes without (before) and with the region prompt (after).
        of_name_groups: separation of the groups of names, likewise.
        coarse_to_fine: comparisons by names for all boxes and for each group of names, and by examples for all boxes.
    """

    regions: EmbeddedRegions
    vocabulary: Vocabulary
    names: TwoLevels
    prompted: TwoLevels
    plain: TwoLevels
    of_classes: Change
    of_name_groups: Change
    coarse_to_fine: list[CoarseToFine]

    def agreement(self, clusters: Clusters) -> Agreement:
        """Agreement of clusters of the regions with their classes."""
        shape = (len(self.vocabulary), len(clusters.centres))
        return Agreement.of(self.regions.classes, clusters.labels, shape)

    def described(self, clusters: Clusters) -> list[RegionGroup]:
        """The boxes of every cluster, their classes, and the class names nearest to it."""
        names, boxes = self.vocabulary.names, self.agreement(clusters).boxes.T
        centres, embeddings = clusters.centres, self.vocabulary.embeddings.to(clusters.centres)
        if len(centres) > 1:
            centres, embeddings = (F.normalize(side - side.mean(dim=0), dim=-1) for side in (centres, embeddings))
        cosine = centres @ embeddings.T
        found = []
        for row, near in zip(boxes, cosine.argsort(dim=1, descending=True, stable=True), strict=True):
            order = row.argsort(descending=True, stable=True).tolist()
            classes = {names[i]: int(row[i]) for i in order if row[i]}
            found.append(RegionGroup(int(row.sum()), classes, tuple(names[i] for i in near[:_NAMES].tolist())))
        return found

    def by_class(self) -> list[ClassRegions]:
        """Classes with boxes, the least separated first."""
        mains = self.agreement(self.prompted.fine).main_cluster()
        plain, prompted = (silhouette(way, self.regions.classes) for way in (self.regions.plain, self.regions.prompted))
        rows = []
        for number, (name, main) in enumerate(zip(self.vocabulary.names, mains, strict=True)):
            if main is not None:
                mine = self.regions.classes == number
                means = float(plain[mine].mean()), float(prompted[mine].mean())
                rows.append(ClassRegions(name, int(mine.sum()), *main, *means))
        return sorted(rows, key=lambda row: row.silhouette_prompted)

    def levels(self) -> Iterator[tuple[str, Clusters, Clusters]]:
        """Name of each level, with its clusters without the region prompt and with it."""
        yield "groups", self.plain.coarse, self.prompted.coarse
        yield "subgroups", self.plain.fine, self.prompted.fine

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "boxes": len(self.regions),
            "parents": self.prompted.parents.tolist(),
            **{level: [vars(group) for group in self.described(found)] for level, _, found in self.levels()},
            "agreement": {
                level: {"no prompt": _numbers(self.agreement(plain)), "prompt": _numbers(self.agreement(prompted))}
                for level, plain, prompted in self.levels()
            },
            "classes": [_known(vars(row)) for row in self.by_class()],
            "silhouette": {"classes": self.of_classes.as_dict(), "groups of names": self.of_name_groups.as_dict()},
            "coarse_to_fine": [
                {
                    "by": row.by,
                    "group": row.group,
                    "boxes": row.boxes,
                    "group_right": row.group_right.as_dict(),
                    "flat": row.top1.before.as_dict(),
                    "coarse_to_fine": row.top1.after.as_dict(),
                    "change": row.top1.difference.as_dict(),
                }
                for row in self.coarse_to_fine
            ],
            "bootstrap": {"resamples": RESAMPLES, "over": "images"},
        }


def group_regions(
    regions: EmbeddedRegions, vocabulary: Vocabulary, names: TwoLevels, *, count: int, subgroups: int, seed: int = 0
) -> RegionGroups:
    """Divide regions into groups, with and without the region prompt, and compare these with the classes.

    Args:
        regions: at least `count` boxes of the vocabulary's classes.
        vocabulary: C classes.
        names: groups and subgroups of their embeddings.
        count: number of groups of regions.
        subgroups: number of subgroups of each group.
        seed: seed of the grouping.

    Raises:
        VocabularyError: there are fewer boxes than groups.
    """
    counts = resample_counts(regions.images)
    prompted, plain = (two_levels(way, count, subgroups, seed=seed) for way in (regions.prompted, regions.plain))
    by_examples = measure_by_examples(regions, count=count, subgroups=subgroups, seed=seed, counts=counts)
    return RegionGroups(
        regions=regions,
        vocabulary=vocabulary,
        names=names,
        prompted=prompted,
        plain=plain,
        of_classes=separation(regions, regions.classes, counts),
        of_name_groups=separation(regions, names.coarse.labels[regions.classes], counts),
        coarse_to_fine=[
            *measure_coarse_to_fine(regions, vocabulary.embeddings, names, counts),
            *([] if by_examples is None else [by_examples]),
        ],
    )


def draw_regions(found: RegionGroups, model: str) -> Image.Image:
    """Draw all regions in a plane, without the region prompt and with it; `model` is the name in the title."""
    plane = main_plane(found.regions)
    # Each way minus its mean, since a shift of all regions changes no distance.
    places = [way - way.mean(dim=0) for way in (found.regions.plain.double(), found.regions.prompted.double())]
    headings = (("without the region prompt", found.of_classes.before), ("with it", found.of_classes.after))
    panels = {
        f"{heading}: silhouette of the classes {one.text(scale=1, form='+.3f', between=' to ')}": [
            (x, y) for x, y in (way @ plane).tolist()
        ]
        for (heading, one), way in zip(headings, places, strict=True)
    }
    names = [
        ", ".join(f"{name} ({boxes})" for name, boxes in list(group.classes.items())[:_NAMES])
        for group in found.described(found.prompted.coarse)
    ]
    classes = [found.vocabulary.names[number] for number in found.regions.classes.tolist()]
    return draw_points(
        panels,
        Points(classes, found.prompted.coarse.labels.tolist()),
        group_names=names,
        title=f"Regions as {model} sees them",
        subtitle="two main directions of all embeddings; colour: annotated class, mark and number: group of regions",
    )


def main_plane(regions: EmbeddedRegions) -> Tensor:
    """The two main directions [D, 2] of the embeddings of regions, with and without the region prompt."""
    ways = [way.double() - way.double().mean(dim=0) for way in (regions.plain, regions.prompted)]
    _, _, directions = torch.linalg.svd(torch.cat(ways), full_matrices=False)
    plane: Tensor = directions[:2].T
    # The sign of a singular vector is arbitrary; here its largest entry is positive.
    return plane * plane.gather(0, plane.abs().argmax(dim=0, keepdim=True)).sign()


def _numbers(agreement: Agreement) -> dict[str, float]:
    return {
        "purity": agreement.purity,
        "normalised_mutual_information": agreement.mutual_information,
        "adjusted_rand": agreement.adjusted_rand,
    }


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None in place of NaN, which JSON lacks."""
    return {key: None if value != value else value for key, value in row.items()}
