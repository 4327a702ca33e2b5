"""Group classes by their embeddings, measure which of them are confused, print, draw and write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import cora
from cora.apps.device import pick_device
from cora.apps.model_options import read_names
from cora.console import output_console, tracked
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.errors import DataError, VocabularyError
from cora.evaluation.confusion import region_confusion
from cora.files import write_json, write_picture
from cora.plots import draw_confusion, draw_matrix, side_by_side
from cora.regions import Vocabulary
from cora.regions.groups import Clusters, spherical_kmeans

#: Pairs of classes that are printed, and that are written.
_PRINTED, _WRITTEN = 10, 100


@dataclass(frozen=True)
class _Found:
    """Classes in the order of their groups; `cosine` and `confusion` [C, C] follow that order."""

    names: tuple[str, ...]
    groups: tuple[int, ...]
    cosine: Tensor
    confusion: Tensor | None

    @property
    def breaks(self) -> list[int]:
        """Where a new group begins."""
        return [i for i in range(1, len(self.names)) if self.groups[i] != self.groups[i - 1]]

    def alike(self, count: int) -> list[tuple[str, str, float]]:
        """Pairs of names of highest cosine, best first."""
        size = len(self.names)
        pairs = [(float(self.cosine[i, j]), i, j) for i in range(size) for j in range(i + 1, size)]
        return [(self.names[i], self.names[j], c) for c, i, j in sorted(pairs, reverse=True)[:count]]

    def confused(self, count: int) -> list[tuple[str, str, int, float]]:
        """(annotated, chosen, boxes, share of the annotated class's boxes), most boxes first."""
        if self.confusion is None:
            return []
        boxes = self.confusion.sum(dim=1)
        wrong = self.confusion.clone().fill_diagonal_(0)
        order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
        places = [(place // len(self.names), place % len(self.names)) for place in order]
        return [
            (self.names[i], self.names[j], int(wrong[i, j]), float(wrong[i, j] / boxes[i]))
            for i, j in places
            if wrong[i, j]
        ]

    def within_group(self) -> tuple[int, int]:
        """Boxes that were named wrong, and those of them that got a name of their own group."""
        if self.confusion is None:
            return 0, 0
        wrong = self.confusion.clone().fill_diagonal_(0)
        same = [[a == b for b in self.groups] for a in self.groups]
        return int(wrong.sum()), int((wrong * wrong.new_tensor(same)).sum())


def group_classes(args: argparse.Namespace) -> int:
    """Run `cora groups`; returns the exit code."""
    if args.picture is not None and args.picture.suffix.lower() != ".png":
        raise DataError(f"expected a name that ends in .png for the image, got {args.picture}")
    device = pick_device(args.device)
    names = list(read_names(args.classes)) if args.classes is not None else None
    dataset = _dataset(args, names)
    if dataset is not None:
        names = list(dataset.class_names)
    elif names is None:
        raise VocabularyError("expected --classes, or --images with --annotations, got neither; name the classes")
    detector = cora.load(args.model).detector.to(device)
    vocabulary = detector.vocabulary_encoder.encode(names).to(device)
    clusters = spherical_kmeans(vocabulary.embeddings, args.groups, seed=args.seed)
    confusion = None
    if dataset is not None:
        indices = range(min(len(dataset), args.limit or len(dataset)))
        confusion = region_confusion(detector, dataset, vocabulary, indices=indices, progress=_track)
    found = _in_order(vocabulary, clusters, confusion)
    console = output_console()
    _print(console, found, clusters)
    if args.picture is not None:
        write_picture(args.picture, _picture(found, str(args.model)))
    _write(args.json, args, names, found, clusters)
    written = ", ".join(str(path) for path in (args.json, args.picture) if path is not None)
    if written:
        console.print(f"Written: {written}", soft_wrap=True)
    return 0


def _dataset(args: argparse.Namespace, names: Sequence[str] | None) -> CocoDataset | None:
    if args.images is None:
        if args.annotations is not None or args.limit is not None:
            raise DataError("expected --images with --annotations or --limit, got none; name the folder of the images")
        return None
    return read_dataset(images=args.images, annotations=args.annotations, class_names=names)


def _in_order(vocabulary: Vocabulary, clusters: Clusters, confusion: Tensor | None) -> _Found:
    """Groups one after the other; in each, those nearest to its centre first."""
    directions = F.normalize(vocabulary.embeddings.detach().double().cpu(), dim=-1)
    near = (directions * clusters.centres[clusters.labels]).sum(dim=-1)
    order = sorted(range(len(vocabulary)), key=lambda i: (int(clusters.labels[i]), -float(near[i])))
    cosine = directions @ directions.T
    return _Found(
        names=tuple(vocabulary.names[i] for i in order),
        groups=tuple(int(clusters.labels[i]) for i in order),
        cosine=cosine[order][:, order],
        confusion=None if confusion is None else confusion[order][:, order],
    )


def _print(console: Console, found: _Found, clusters: Clusters) -> None:
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


def _picture(found: _Found, model: str) -> Any:
    cosine = found.cosine.clone()
    off_diagonal = [float(cosine[i, j]) for i in range(len(cosine)) for j in range(len(cosine)) if i != j]
    pictures = [
        draw_matrix(
            cosine.tolist(),
            found.names,
            title=f"Names that {model} finds alike",
            subtitle="cosine of class embeddings; lines divide the groups",
            low=min(off_diagonal, default=0.0),
            breaks=found.breaks,
        )
    ]
    if found.confusion is not None:
        title = f"Objects that {model} takes for one another"
        pictures.append(draw_confusion(found.confusion.tolist(), found.names, title=title, breaks=found.breaks))
    return side_by_side(pictures)


def _write(
    path: Path | None, args: argparse.Namespace, names: Sequence[str], found: _Found, clusters: Clusters
) -> None:
    if path is None:
        return
    report: dict[str, Any] = {
        "command": ["cora", *sys.argv[1:]],
        "version": cora.__version__,
        "model": str(args.model),
        "seed": args.seed,
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


def _track(indices: Sequence[int]) -> Any:
    return tracked(indices, "regions")
