"""`cora groups`: which classes a tower can hardly tell apart, and which of them are confused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import Command
from cora.apps.model_options import device_option, model_option
from cora.apps.options import option
from cora.errors import DataError, VocabularyError

if TYPE_CHECKING:
    from rich.console import Console

    from cora.data.coco import CocoDataset
    from cora.evaluation.class_groups import GroupedClasses
    from cora.regions.groups import Clusters

#: Pairs of classes that are printed, and that are written.
_PRINTED, _WRITTEN = 10, 100


@dataclass(frozen=True, kw_only=True)
class GroupsOptions:
    """Options of `cora groups`."""

    classes: str | None = option(
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line '
        "(default: those of the annotations)",
    )
    groups: int = option(type=positive, required=True, metavar="K", help="number of groups")
    images: Path | None = option(metavar="DIR", help="annotated images: also measure what is confused")
    annotations: Path | None = option(help="their boxes (COCO, LVIS, VOC or YOLO)")
    limit: int | None = option(type=positive, help="only the first N images")
    model: str = model_option("name or path of the model")
    device: str = device_option()
    seed: int = option(default=0, help="of the grouping (default: %(default)s)")
    json: Path | None = option(writes=kinds.GROUPS, help="write groups and all numbers to this file")
    picture: Path | None = option(
        writes=kinds.PICTURE, metavar="FILE.png", help="draw what is alike and what is confused"
    )


def run(options: GroupsOptions) -> int:
    """Group classes by their embeddings, measure what is confused if there are images, print, draw and write.

    Raises:
        CoraError: bad input.
    """
    from functools import partial

    import cora
    from cora.console import output_console, tracked
    from cora.data.name_file import read_names
    from cora.evaluation.class_groups import draw_groups, group_in_order
    from cora.evaluation.confusion import region_confusion
    from cora.files import write_picture
    from cora.predictor.device import pick_device
    from cora.regions.groups import spherical_kmeans

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
    vocabulary = detector.vocabulary_encoder.encode(names).to(device)
    clusters = spherical_kmeans(vocabulary.embeddings, options.groups, seed=options.seed)
    confusion = None
    if dataset is not None:
        indices = range(min(len(dataset), options.limit or len(dataset)))
        confusion = region_confusion(
            detector, dataset, vocabulary, indices=indices, progress=partial(tracked, title="regions")
        )
    found = group_in_order(vocabulary, clusters, confusion)
    console = output_console()
    _print(console, found, clusters)
    if options.picture is not None:
        write_picture(options.picture, draw_groups(found, options.model))
    if options.json is not None:
        _write(options.json, options, names, found, clusters)
    written = ", ".join(str(path) for path in (options.json, options.picture) if path is not None)
    if written:
        console.print(f"Written: {written}", soft_wrap=True)
    return 0


def _dataset(options: GroupsOptions, names: Sequence[str] | None) -> CocoDataset | None:
    if options.images is None:
        if options.annotations is not None or options.limit is not None:
            raise DataError("expected --images with --annotations or --limit, got none; name the folder of the images")
        return None
    from cora.data.read import read_dataset

    return read_dataset(images=options.images, annotations=options.annotations, class_names=names)


def _print(console: Console, found: GroupedClasses, clusters: Clusters) -> None:
    from rich.table import Table

    title = f"{len(clusters.centres)} groups of {len(found.names)} classes, cosine to the centre {clusters.cosine:.3f}"
    table = Table()
    table.add_column("group", justify="right")
    table.add_column("classes")
    for group in range(len(clusters.centres)):
        members = [name for name, mine in zip(found.names, found.groups, strict=True) if mine == group]
        table.add_row(str(group), ", ".join(members))
    # As lines, not as titles of tables: those wrap at the width of the table.
    console.print(title, soft_wrap=True)
    console.print(table)
    alike = Table()
    for column in ("", ""):
        alike.add_column(column)
    alike.add_column("cosine", justify="right")
    for first, second, cosine in found.alike(_PRINTED):
        alike.add_row(first, second, f"{cosine:.3f}")
    console.print("names most alike")
    console.print(alike)
    if found.confusion is None:
        return
    boxes, (wrong, within) = int(found.confusion.sum()), found.within_group()
    confused = Table()
    for column in ("annotated", "named"):
        confused.add_column(column)
    for column in ("boxes", "of the class, %"):
        confused.add_column(column, justify="right")
    for annotated, chosen, number, share in found.confused(_PRINTED):
        confused.add_row(annotated, chosen, str(number), f"{100 * share:.1f}")
    console.print(f"{wrong} of {boxes} boxes named wrong, {within} of these within their group", soft_wrap=True)
    console.print(confused)


def _write(path: Path, options: GroupsOptions, names: Sequence[str], found: GroupedClasses, clusters: Clusters) -> None:
    import sys

    import cora
    from cora.files import write_json

    report: dict[str, Any] = {
        "command": ["cora", *sys.argv[1:]],
        "version": cora.__version__,
        "model": options.model,
        "seed": options.seed,
        "groups": dict(zip(names, clusters.labels.tolist(), strict=True)),
        "cosine_to_centre": clusters.cosine,
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
    write_json(path, report)


COMMAND = Command(
    name="groups",
    options=GroupsOptions,
    run=run,
    help="which classes a model can hardly tell apart",
    description="Groups of classes by spherical k-means of their embeddings: which a model can hardly tell apart.",
)
