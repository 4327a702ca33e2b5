"""`cora groups`: groups of classes that a model can hardly tell apart, by their names and by their regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.apps import kinds
from cora.apps.argument_types import positive, seed_number
from cora.apps.command import Command
from cora.apps.data_options import write_numbers
from cora.apps.model_options import device_option, model_option
from cora.apps.options import option
from cora.errors import DataError, VocabularyError
from cora.files import write_picture

if TYPE_CHECKING:
    from rich.console import Console

    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.evaluation.class_groups import GroupedClasses
    from cora.evaluation.embedded_regions import EmbeddedRegions
    from cora.evaluation.region_groups import RegionGroups
    from cora.regions import Vocabulary
    from cora.regions.groups import TwoLevels

#: Pairs of classes to print, and to write to the file; classes whose regions are printed.
_PRINTED, _WRITTEN, _CLASSES = 10, 100, 20


@dataclass(frozen=True, kw_only=True)
class GroupsOptions:
    """Options of `cora groups`."""

    classes: str | None = option(
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line '
        "(default: those of the annotations)",
    )
    groups: int = option(type=positive, required=True, metavar="K", help="number of groups")
    subgroups: int = option(
        type=positive, default=2, metavar="N", help="subgroups into which each group is split (default: %(default)s)"
    )
    images: Path | None = option(
        metavar="DIR", help="annotated images: also group their regions, and measure what is confused"
    )
    annotations: Path | None = option(help="their boxes (COCO, LVIS, VOC or YOLO)")
    limit: int | None = option(type=positive, help="only the first N images")
    model: str = model_option("name or path of the model")
    device: str = device_option()
    seed: int = option(type=seed_number, default=0, help="seed of the grouping (default: %(default)s)")
    json: Path | None = option(writes=kinds.GROUPS, help="write groups and all numbers to this file")
    picture: Path | None = option(
        writes=kinds.PICTURE, metavar="FILE.png", help="draw what is alike and what is confused"
    )


def run(options: GroupsOptions) -> int:
    """Group classes by their embeddings and, if there are images, measure which are confused; print, draw and write.

    Raises:
        CoraError: bad input.
    """
    import cora
    from cora.console import output_console
    from cora.data.name_file import read_names
    from cora.evaluation.class_groups import draw_groups, group_in_order
    from cora.evaluation.confusion import region_confusion
    from cora.evaluation.region_groups import draw_regions
    from cora.plots import below_one_another
    from cora.predictor.device import pick_device
    from cora.regions.groups import two_levels

    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise DataError(f"expected a name that ends in .png for the image, got {options.picture}")
    device = pick_device(options.device)
    names = list(read_names(options.classes)) if options.classes is not None else None
    dataset = _dataset(options, names)
    if dataset is not None:
        names = list(dataset.class_names)
    elif names is None:
        raise VocabularyError("expected --classes, or --images with --annotations, got neither; name the classes")
    detector = cora.load(options.model).detector.to(device)
    vocabulary = detector.vocabulary_encoder.encode(names).to("cpu")
    levels = two_levels(vocabulary.embeddings, options.groups, options.subgroups, seed=options.seed)
    regions = None if dataset is None else _embed_regions(detector, dataset, options.limit)
    found = group_in_order(vocabulary, levels, None if regions is None else region_confusion(regions, vocabulary))
    seen = None if regions is None else _group_regions(regions, vocabulary, levels, options)
    console = output_console()
    _print(console, found, levels)
    if seen is not None:
        _print_regions(console, seen)
    elif regions is not None:
        console.print(
            f"regions are not grouped: expected at least {options.groups} boxes for {options.groups} groups, got "
            f"{len(regions)}; ask for fewer groups or give more images",
            soft_wrap=True,
        )
    if options.picture is not None:
        matrices = draw_groups(found, options.model)
        rows = [matrices] if seen is None else [matrices, draw_regions(seen, options.model)]
        write_picture(options.picture, below_one_another(rows))
    write_numbers(options.json, _report(options, found, levels, vocabulary, seen))
    written = ", ".join(str(path) for path in (options.json, options.picture) if path is not None)
    if written:
        console.print(f"Written: {written}", soft_wrap=True)
    return 0


def _embed_regions(detector: Detector, dataset: CocoDataset, limit: int | None) -> EmbeddedRegions:
    from functools import partial

    from cora.console import tracked
    from cora.evaluation.embedded_regions import embed_both_ways

    indices = range(min(len(dataset), limit or len(dataset)))
    return embed_both_ways(detector, dataset, indices=indices, progress=partial(tracked, title="regions"))


def _group_regions(
    regions: EmbeddedRegions, vocabulary: Vocabulary, levels: TwoLevels, options: GroupsOptions
) -> RegionGroups | None:
    """Groups of the regions; None if there are fewer boxes than groups."""
    from cora.evaluation.region_groups import group_regions

    if len(regions) < options.groups:
        return None
    return group_regions(
        regions, vocabulary, levels, count=options.groups, subgroups=options.subgroups, seed=options.seed
    )


def _dataset(options: GroupsOptions, names: Sequence[str] | None) -> CocoDataset | None:
    """The annotated images, if there are some, with boxes of these classes or of all."""
    if options.images is None:
        if options.annotations is not None or options.limit is not None:
            raise DataError("expected --images with --annotations or --limit, got none; name the folder of the images")
        return None
    from cora.data.read import read_dataset

    return read_dataset(images=options.images, annotations=options.annotations, class_names=names)


def _print(console: Console, found: GroupedClasses, levels: TwoLevels) -> None:
    from rich.table import Column, Table

    from cora.console import number_table

    cosine = levels.coarse.cosine
    title = f"{len(levels.coarse.centres)} groups of {len(found.names)} classes, cosine to the centre {cosine:.3f}"
    table = Table(Column("group", justify="right"), Column("subgroup", justify="right"), "classes")
    for subgroup, group in enumerate(levels.parents.tolist()):
        members = [name for name, mine in zip(found.names, found.subgroups, strict=True) if mine == subgroup]
        table.add_row(str(group), str(subgroup), ", ".join(members))
    # As lines, not as titles of tables: those wrap at the width of the table.
    console.print(title, soft_wrap=True)
    console.print(table)
    alike = number_table("", "", "cosine", words=2)
    for first, second, cosine in found.alike(_PRINTED):
        alike.add_row(first, second, f"{cosine:.3f}")
    console.print("names most alike")
    console.print(alike)
    if found.confusion is None:
        return
    boxes, (wrong, within) = int(found.confusion.sum()), found.within_group()
    confused = number_table("annotated", "named", "boxes", "of the class, %", words=2)
    for annotated, chosen, number, share in found.confused(_PRINTED):
        confused.add_row(annotated, chosen, str(number), f"{100 * share:.1f}")
    console.print(f"{wrong} of {boxes} boxes named wrong, {within} of these within their group", soft_wrap=True)
    console.print(confused)


def _print_regions(console: Console, seen: RegionGroups) -> None:
    from cora.evaluation import group_tables as tables

    classes = len({*seen.regions.classes.tolist()})
    least = f"the {_CLASSES} least separated of {classes} classes" if classes > _CLASSES else "least separated first"
    groups = len(seen.prompted.coarse.centres)
    for title, table in (
        (f"{groups} groups of {len(seen.regions)} regions, with the prompt", tables.region_group_table(seen)),
        ("groups of regions beside the annotated classes", tables.agreement_table(seen)),
        (f"regions of each class, {least}", tables.class_table(seen, _CLASSES)),
        ("separation of regions: mean silhouette by cosine (95 % interval)", tables.separation_table(seen)),
        ("a group of classes first, then a subgroup, then a class (95 % interval)", tables.coarse_to_fine_table(seen)),
    ):
        console.print(title, soft_wrap=True)
        console.print(table)


def _report(
    options: GroupsOptions,
    found: GroupedClasses,
    levels: TwoLevels,
    vocabulary: Vocabulary,
    seen: RegionGroups | None,
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "model": options.model,
        "seed": options.seed,
        "groups": dict(zip(vocabulary.names, levels.coarse.labels.tolist(), strict=True)),
        "subgroups": dict(zip(vocabulary.names, levels.fine.labels.tolist(), strict=True)),
        "parents": levels.parents.tolist(),
        "cosine_to_centre": levels.coarse.cosine,
        "alike": [{"classes": [a, b], "cosine": c} for a, b, c in found.alike(_WRITTEN)],
    }
    if found.confusion is not None:
        wrong, within = found.within_group()
        report |= {
            "boxes": int(found.confusion.sum()),
            "wrong": wrong,
            "wrong_within_group": within,
            "confused": [
                {"annotated": a, "named": b, "boxes": n, "share": share} for a, b, n, share in found.confused(_WRITTEN)
            ],
            "confusion": {"classes": list(found.names), "boxes": found.confusion.tolist()},
        }
    if seen is not None:
        report["regions"] = seen.as_dict()
    return report


COMMAND = Command(
    name="groups",
    options=GroupsOptions,
    run=run,
    help="which classes a model can hardly tell apart",
    description="Groups of classes by spherical k-means of their embeddings: which a model can hardly tell apart.",
)
