"""Learn the text side of a model on base boxes, say what it did to base and novel classes, write the result."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table

import cora
from cora.apps.device import pick_device
from cora.apps.image_sets import testing_images, training_images
from cora.console import Bars, error_console, output_console, say
from cora.data.class_split import ClassSplit, open_split
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.errors import DataError
from cora.evaluation.base_novel import class_groups
from cora.evaluation.bootstrap import Estimate, resample_counts
from cora.evaluation.region_change import RegionChange, region_change
from cora.names import names_without
from cora.regions import EVERYDAY_NAMES
from cora.training.region_embeddings import RegionEmbeddings, embed_regions
from cora.training.text_training import DEFAULTS, TextTrainConfig, build_text_task, train_text

_INTERRUPTED = 130


def learn_text(args: argparse.Namespace) -> int:
    """Run `cora text-prompts`; returns the exit code."""
    if (args.val_images is None) != (args.val_annotations is None):
        raise DataError("expected --val-images and --val-annotations together, got one of them; add the other")
    device = pick_device(args.device)
    split = None if args.split is None else open_split(args.split)
    train_set = read_dataset(
        images=args.images, annotations=args.annotations, class_names=None if split is None else split.base
    )
    train_set = training_images(train_set, split)
    split = split or ClassSplit(base=train_set.class_names)
    val_set = None
    if args.val_annotations is not None:
        val_set = read_dataset(images=args.val_images, annotations=args.val_annotations, class_names=split.all)
        val_set = testing_images(val_set, split)
    config = text_config(args)
    detector = cora.load(args.model).detector.to(device)
    data = embed_dataset(detector, train_set, args.cache, "train")
    torch.manual_seed(args.seed)
    task = build_text_task(
        args.method,
        detector=detector,
        data=data,
        kept_names=kept_names(split),
        config=config,
        context=args.context,
        layers=args.layers,
    ).to(device)
    with tempfile.TemporaryDirectory() as scratch:
        result = train_text(task, data, config, args.run_dir or Path(scratch))
    if result.interrupted:
        hint = (
            f"the same command goes on from {args.run_dir}"
            if args.run_dir
            else "name a --run folder to go on another time"
        )
        say(error_console(), f"cora: interrupted, nothing written; {hint}")
        return _INTERRUPTED
    before = detector.vocabulary_encoder.encode(split.all).embeddings.cpu()
    artefact = task.eval().artefact({"command": " ".join(["cora", *sys.argv[1:]]), "boxes": str(len(data))})
    artefact.apply(detector)
    after = detector.vocabulary_encoder.encode(split.all).embeddings.cpu()
    artefact.write(args.output)
    if args.save_model is not None:
        detector.save(args.save_model)
    out = output_console()
    if val_set is not None:
        measured = embed_dataset(detector, val_set, args.cache, "val")
        changes = measure_change(measured, split, before, after, resamples=args.resamples)
        out.print(_table(changes, f"{args.method}: boxes named right among {len(split.all)} classes, %"))
    files = ", ".join(str(path) for path in (args.output, args.save_model) if path is not None)
    out.print(f"Learned from {len(data)} boxes of {len(split.base)} classes; written: {files}", soft_wrap=True)
    return 0


def text_config(args: argparse.Namespace) -> TextTrainConfig:
    """The method's settings with those that were given."""
    given = {name: getattr(args, name) for name in ("epochs", "lr", "keep", "seed")}
    return replace(DEFAULTS[args.method], **{name: value for name, value in given.items() if value is not None})


def kept_names(split: ClassSplit) -> tuple[str, ...]:
    """Everyday names that training holds in place; novel classes stay unseen, even as words."""
    return tuple(names_without(EVERYDAY_NAMES, split.novel))


def embed_dataset(detector: Detector, dataset: CocoDataset, cache: Path | None, name: str) -> RegionEmbeddings:
    """Region embeddings of a dataset with progress on standard error, kept in `cache` if there is one."""
    file = None if cache is None else cache / f"regions_{name}.safetensors"
    title = f"boxes of {name}"
    with Bars() as bars:

        def report(done: int, total: int) -> None:
            bars.update(title, done, total)

        return embed_regions(detector=detector, dataset=dataset, file=file, on_progress=report)


def measure_change(
    data: RegionEmbeddings, split: ClassSplit, before: torch.Tensor, after: torch.Tensor, *, resamples: int = 200
) -> dict[str, RegionChange]:
    """Change of top-1 by group (novel, base, all), all classes of the split competing."""
    counts = resample_counts(data.images, resamples=resamples)
    return {
        group: region_change(
            regions=data.regions,
            labels=data.labels,
            image_index=data.image_index,
            before=before,
            after=after,
            class_names=split.all,
            chosen=members,
            counts=counts,
        )
        for group, members in class_groups(split.base, split.novel).items()
        if members
    }


def percent(measured: Estimate, *, signed: bool = False) -> str:
    """A share and its interval in percent: "8.2 (5.8-10.6)", or "+1.4 (-0.3 to 2.9)" for a difference."""
    if measured.value is None:
        return "-"
    form, between = ("+.1f", " to ") if signed else (".1f", "-")
    interval = ""
    if measured.low is not None and measured.high is not None:
        interval = f" ({100 * measured.low:{form}}{between}{100 * measured.high:{form}})"
    return f"{100 * measured.value:{form}}{interval}"


def _table(changes: Mapping[str, RegionChange], title: str) -> Table:
    table = Table("", title=title, title_justify="left")
    for column in ("boxes", "top-1 before", "after", "change", "class mean before", "after", "change"):
        table.add_column(column, justify="right")
    for group, change in changes.items():
        cells = [
            percent(estimate, signed=signed)
            for kind in (change.per_box, change.per_class)
            for estimate, signed in ((kind.before, False), (kind.after, False), (kind.difference, True))
        ]
        table.add_row(group, str(change.boxes), *cells)
    return table
