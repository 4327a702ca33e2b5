"""Tables of groups of regions: their classes, the separation of these, and coarse-to-fine classification."""

from __future__ import annotations

from rich.table import Table

from cora.evaluation.bootstrap import Estimate
from cora.evaluation.region_groups import RegionGroups
from cora.evaluation.tables import percent, plain, table

#: Number of classes of a group that a table shows.
_NAMED = 4


def region_group_table(found: RegionGroups) -> Table:
    """One row for each subgroup of regions with the region prompt."""
    answer = table("", "subgroup", "boxes", "annotated classes", "nearest class names")
    answer.columns[0].header = "group"
    for column in answer.columns[3:]:
        column.justify = "left"
    subgroups = zip(found.prompted.parents.tolist(), found.described(found.prompted.fine), strict=True)
    for number, (parent, one) in enumerate(subgroups):
        classes = [f"{name} {plain(boxes / one.boxes)} %" for name, boxes in list(one.classes.items())[:_NAMED]]
        more = [f"{len(one.classes) - _NAMED} more"] if len(one.classes) > _NAMED else []
        answer.add_row(str(parent), str(number), str(one.boxes), ", ".join([*classes, *more]), ", ".join(one.nearest))
    return answer


def agreement_table(found: RegionGroups) -> Table:
    """Agreement of groups and of subgroups with the classes, without and with the region prompt."""
    answer = table("", "number", "purity, %", "mutual information, %", "adjusted Rand, %")
    for level, *ways in found.levels():
        for way, clusters in zip(("no prompt", "prompt"), ways, strict=True):
            agreement = found.agreement(clusters)
            numbers = (agreement.purity, agreement.mutual_information, agreement.adjusted_rand)
            answer.add_row(f"{level}, {way}", str(len(clusters.centres)), *map(plain, numbers))
    return answer


def class_table(found: RegionGroups, most: int) -> Table:
    """The least separated classes, at most `most` of them."""
    answer = table("", "boxes", "main subgroup", "of its boxes, %", "silhouette, no prompt", "prompt")
    for row in found.by_class()[:most]:
        silhouettes = [f"{value:+.3f}" for value in (row.silhouette_plain, row.silhouette_prompted)]
        answer.add_row(row.name, str(row.boxes), str(row.subgroup), plain(row.share), *silhouettes)
    return answer


def separation_table(found: RegionGroups) -> Table:
    """Mean silhouettes of classes and of groups of names, without and with the region prompt."""
    answer = table("", "no prompt", "prompt", "change")
    for name, change in (("classes", found.of_classes), ("groups of names", found.of_name_groups)):
        cells = [_signed(one) for one in (change.before, change.after, change.difference)]
        answer.add_row(name, *cells)
    return answer


def coarse_to_fine_table(found: RegionGroups) -> Table:
    """Top-1 accuracy of both ways: by names for all boxes and for each group of names, and by examples."""
    answer = table("", "boxes", "group right, %", "flat top-1, %", "coarse to fine", "change")
    for row in found.coarse_to_fine:
        name = f"by {row.by}" if row.group is None else f"by {row.by}, group {row.group}"
        top1 = row.top1
        changes = (percent(top1.before), percent(top1.after), percent(top1.difference, signed=True))
        answer.add_row(name, str(row.boxes), percent(row.group_right), *changes)
    return answer


def _signed(measured: Estimate) -> str:
    return measured.text(scale=1, form="+.3f", between=" to ")
