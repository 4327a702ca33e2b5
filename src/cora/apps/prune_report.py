"""What the commands for smaller models measure before and after, and how they show it."""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cora.apps.files import find_images
from cora.apps.held_out import HeldOut, groups_of
from cora.apps.image_sets import testing_images
from cora.apps.model_options import read_names
from cora.compress.arch_sizes import Architecture
from cora.compress.prune_measure import Agreement, Cost, agreement, costs, detect_all
from cora.console import tracked
from cora.data.class_split import open_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.errors import DataError, MissingExtraError
from cora.evaluation.base_novel import GroupScore
from cora.images import read_image
from cora.regions import EVERYDAY_NAMES


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured of one model.

    Attributes:
        sizes: of the model.
        cost: of an image.
        agreement: with the first model; None of that model itself.
        scores: AP50 by group of classes, where there are boxes to measure it on.
    """

    sizes: Architecture
    cost: Cost
    agreement: Agreement | None = None
    scores: Mapping[str, GroupScore] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON."""
        return {
            "sizes": self.sizes.to_dict(),
            "cost": self.cost.to_dict(),
            "agreement": None if self.agreement is None else vars(self.agreement),
            "scores": {group: score.as_dict() for group, score in self.scores.items()},
        }


def check_model_file(output: Path) -> None:
    """Raise DataError unless the name of a model file to write ends as it should."""
    if output.suffix != ".safetensors":
        raise DataError(f"expected an output file *.safetensors, got {output}; change its suffix")


def draw_pictures(folder: Path, count: int, seed: int) -> list[Image.Image]:
    """`count` images of a folder, drawn by the seed, or all if there are fewer; in the order of their names.

    Raises:
        ImageError: no images there, or one that cannot be read.
    """
    return [read_image(path) for path in sorted(draw_paths(folder, count, seed))]


def draw_paths(folder: Path, count: int, seed: int) -> list[Path]:
    """Paths of `count` images of a folder, drawn by the seed, or of all if there are fewer; in the order drawn."""
    paths = sorted(find_images([str(folder)]).paths)
    return random.Random(seed).sample(paths, min(count, len(paths)))


def names_for(args: argparse.Namespace, annotated: tuple[str, ...] | None) -> tuple[str, ...]:
    """What the images are searched for: as told, the classes of the annotations, or everyday names."""
    return read_names(args.classes) if args.classes else annotated or EVERYDAY_NAMES


def read_measured(args: argparse.Namespace) -> HeldOut | None:
    """The images with boxes that AP50 is measured on.

    Raises:
        DataError: images without boxes or boxes without images, or a file that cannot be used.
        MissingExtraError: without the extra `evaluate`.
    """
    if (args.val_images is None) != (args.val_annotations is None):
        raise DataError("expected --val-images and --val-annotations together, got one of them")
    if args.val_images is None:
        return None
    if find_spec("hotcoco") is None:
        raise MissingExtraError("AP50", extra="evaluate")
    split = None if args.split is None else open_split(args.split)
    dataset = read_dataset(
        images=args.val_images, annotations=args.val_annotations, class_names=split.all if split is not None else None
    )
    dataset = copy.copy(testing_images(dataset, split))
    if args.limit is not None:
        dataset.records = dataset.records[: args.limit]
    base, novel = (split.base, split.novel) if split is not None else (dataset.class_names, ())
    return HeldOut(dataset=dataset, groups=groups_of(base, novel))


def measure(
    models: Mapping[str, Detector],
    pictures: list[Image.Image],
    names: tuple[str, ...],
    held_out: HeldOut | None,
) -> dict[str, Numbers]:
    """Numbers of every model on the same images; agreement is with the first of them."""
    known = {key: model.vocabulary_encoder.encode(names).to(model.device) for key, model in models.items()}
    found = {key: detect_all(model, pictures, known[key]) for key, model in models.items()}
    cost = costs(models, pictures[0], known)
    first = next(iter(models))
    return {
        key: Numbers(
            sizes=Architecture.of(model.config),
            cost=cost[key],
            agreement=agreement(found[first], found[key]) if key != first else None,
            scores=_scores(held_out, model, key),
        )
        for key, model in models.items()
    }


def _scores(held_out: HeldOut | None, model: Detector, name: str) -> Mapping[str, GroupScore]:
    if held_out is None:
        return {}
    return held_out.scores(model, progress=partial(tracked, title=f"measuring, {name}"))


def print_table(console: Console, columns: Mapping[str, Numbers]) -> None:
    """One row for every number, one column for every model."""
    table = Table("", *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    numbers = list(columns.values())
    for name in numbers[0].sizes.numbers():
        values = [str(one.sizes.numbers()[name]) for one in numbers]
        if len(set(values)) > 1:
            table.add_row(Text(name.replace("_", " ")), *values)
    for part in ("tower", "localizer", "text", "parameters"):
        label = "parameters, all" if part == "parameters" else f"parameters, {part}"
        table.add_row(label, *(f"{getattr(one.cost, part):,}" for one in numbers))
    table.add_row("GMAC an image", *(f"{one.cost.gmac:.2f}" for one in numbers))
    table.add_row("ms an image", *(f"{one.cost.milliseconds:.0f}" for one in numbers))
    table.add_row("agreement, %", *("" if one.agreement is None else str(one.agreement) for one in numbers))
    for group in numbers[0].scores:
        table.add_row(f"AP50 {group}, %", *(percent(one.scores[group]) for one in numbers))
    console.print(table)


def percent(score: GroupScore) -> str:
    """AP50 in percent with its interval, as tables show it."""
    ap50 = score.ap50
    if ap50.value is None:
        return "-"
    interval = "" if ap50.low is None or ap50.high is None else f" ({100 * ap50.low:.1f}-{100 * ap50.high:.1f})"
    return f"{100 * ap50.value:.1f}{interval}"
