"""What `cora study` does: check everything, train, measure, print, write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

import cora
from cora.apps.device import pick_device
from cora.apps.held_out import check_extras, groups_of
from cora.apps.image_sets import testing_images, training_images
from cora.apps.train_run import read_photos
from cora.console import output_console, progress_report, say, tracked
from cora.data.class_split import open_split
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.errors import DataError
from cora.evaluation.bootstrap import Estimate, resample_counts
from cora.files import write_json, write_picture
from cora.study.artefact import TrainedStudy, read_study
from cora.study.build import FrozenPart, build_frozen
from cora.study.config import StudyConfig, read_config
from cora.study.evaluate import BoxFits, FitSummary, by_class, measure_detector, measure_study, summarise
from cora.study.plot import draw_histogram
from cora.study.train import train_study

STUDY, REPORT, PLOT = "study.safetensors", "report.json", "histogram.png"
_INTERRUPTED = 130
#: Names of what is measured, in tables and files.
_FOUND, _CONTROL, _DETECTOR = "study", "one-size boxes", "detector told the classes"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Fits by what was measured; of the study, of the control, and of a detector if there is one."""

    fits: Mapping[str, BoxFits]
    groups: Mapping[str, tuple[str, ...]]
    resamples: int

    def summaries(self) -> dict[str, dict[str, FitSummary]]:
        """Group -> what was measured -> numbers; groups without a box are left out."""
        images = self.fits[_FOUND].images
        counts = resample_counts(images, resamples=self.resamples)
        answer = {
            group: {name: summarise(fits.of(names), counts) for name, fits in self.fits.items()}
            for group, names in self.groups.items()
        }
        return {group: found for group, found in answer.items() if found[_FOUND].boxes}


def train(args: argparse.Namespace) -> int:
    """Run `cora study train`; returns the exit code.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    check_extras("cora study train", measures=False)
    if (args.val_images is None) != (args.val_annotations is None):
        raise DataError("expected --val-images and --val-annotations together, got one of them")
    if args.detector is not None and args.val_annotations is None:
        raise DataError("expected --val-images and --val-annotations with --detector, got none to ask it on")
    device = pick_device(args.device)
    config = _configured(args)
    split = None if args.split is None else open_split(args.split)
    dataset = training_images(read_photos(args, None if split is None else split.base), split)
    dataset = _limited(dataset, args.limit)
    names = dataset.class_names if split is None else split.all
    held_out = None
    if args.val_annotations is not None:
        held_out = read_dataset(images=args.val_images, annotations=args.val_annotations, class_names=names)
        held_out = testing_images(held_out, split)
    frozen = build_frozen(config.tower)
    detector = None if args.detector is None else cora.load(args.detector).detector
    frozen.vocabulary_encoder.encode(names)  # names too long for the tower fail here
    console = output_console()
    boxes = int(dataset.class_counts().sum())
    say(console, f"{len(dataset)} images, {boxes} boxes of {len(dataset.class_names)} classes")
    with progress_report() as report:
        study, result = train_study(
            config=config,
            frozen=frozen,
            dataset=dataset,
            run_dir=args.run_dir,
            device=device,
            on_progress=lambda done, total: report("maps", done, total),
        )
    if result.interrupted:
        return _INTERRUPTED
    target = args.run_dir / STUDY
    study.write(target)
    say(console, f"Wrote {target}")
    if held_out is not None:
        groups = groups_of(dataset.class_names, () if split is None else split.novel)
        measured = _measure(study, frozen, held_out, groups, detector, args)
        _tell(measured, study, args, json_path=args.run_dir / REPORT, plot_path=args.run_dir / PLOT)
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Run `cora study evaluate`; returns the exit code.

    Raises:
        CoraError: bad input, before anything is measured.
    """
    if args.plot is not None and args.plot.suffix.lower() != ".png":
        raise DataError(f"expected a name that ends in .png for the plot, got {args.plot}")
    pick_device(args.device)
    study = read_study(args.study)
    if args.checkpoint is not None:
        tower = replace(study.config.tower, checkpoint=args.checkpoint)
        study = replace(study, config=replace(study.config, tower=tower))
    split = None if args.split is None else open_split(args.split)
    dataset = testing_images(read_photos(args, None if split is None else split.all), split)
    frozen = build_frozen(study.config.tower)
    detector = None if args.detector is None else cora.load(args.detector).detector
    groups = groups_of(dataset.class_names if split is None else split.base, () if split is None else split.novel)
    measured = _measure(study, frozen, dataset, groups, detector, args)
    _tell(measured, study, args, json_path=args.json, plot_path=args.plot)
    return 0


def _configured(args: argparse.Namespace) -> StudyConfig:
    """The settings of the file with those of the options, which win."""
    config = StudyConfig() if args.config is None else read_config(args.config)
    tower = {"name": args.tower, "checkpoint": args.checkpoint}
    training = {name: getattr(args, name) for name in ("epochs", "batch", "lr", "versions", "seed", "workers")}
    return replace(
        config,
        tower=replace(config.tower, **{name: value for name, value in tower.items() if value is not None}),
        train=replace(config.train, **{name: value for name, value in training.items() if value is not None}),
    )


def _limited(dataset: CocoDataset, limit: int | None) -> CocoDataset:
    dataset.records = dataset.records[:limit]
    return dataset


def _measure(
    study: TrainedStudy,
    frozen: FrozenPart,
    dataset: CocoDataset,
    groups: Mapping[str, tuple[str, ...]],
    detector: Detector | None,
    args: argparse.Namespace,
) -> _Measured:
    device = pick_device(args.device)
    indices = range(min(len(dataset), args.limit or len(dataset)))
    found, control = measure_study(study, frozen, dataset, indices=indices, device=device, progress=_track)
    fits = {_FOUND: found, _CONTROL: control}
    if detector is not None:
        fits[_DETECTOR] = measure_detector(detector.to(device), dataset, indices=indices, progress=_track)
    if not len(found.ious):
        raise DataError(f"{dataset.annotations}: expected boxes to measure, got none in {len(indices)} images")
    return _Measured(fits=fits, groups=groups, resamples=args.resamples)


def _tell(
    measured: _Measured,
    study: TrainedStudy,
    args: argparse.Namespace,
    *,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Print, write and draw what was measured."""
    console = output_console()
    summaries = measured.summaries()
    console.print(_table(summaries))
    for group, found in summaries.items():
        say(console, f"{group}: {found[_FOUND].sentence()}")
    if json_path is not None:
        write_json(json_path, _report(measured, summaries, study))
    if plot_path is not None:
        tower = study.config.tower.name
        picture = draw_histogram(summaries["all"], title=f"How well boxes fit with the class given ({tower})")
        write_picture(plot_path, picture)
    written = ", ".join(str(path) for path in (json_path, plot_path) if path is not None)
    if written:
        say(console, f"Written: {written}")


def _report(
    measured: _Measured, summaries: Mapping[str, Mapping[str, FitSummary]], study: TrainedStudy
) -> dict[str, Any]:
    return {
        "command": ["cora", *sys.argv[1:]],
        "version": cora.__version__,
        "config": study.config.to_dict(),
        "learned_classes": list(study.class_names),
        "images": measured.fits[_FOUND].images,
        "groups": {group: {name: one.as_dict() for name, one in found.items()} for group, found in summaries.items()},
        "classes": {name: by_class(fits) for name, fits in measured.fits.items()},
        "verdict": summaries["all"][_FOUND].limit,
        "sentence": summaries["all"][_FOUND].sentence(),
    }


def _table(summaries: Mapping[str, Mapping[str, FitSummary]]) -> Table:
    table = Table("classes", "boxes from")
    for column in ("boxes", "mean IoU", "IoU > 0.3, %", "> 0.5, %", "> 0.7, %"):
        table.add_column(column, justify="right")
    for group, found in summaries.items():
        for name, one in found.items():
            shares = [_written(share, factor=100, form=".1f") for share in one.shares.values()]
            table.add_row(group, name, str(one.boxes), _written(one.mean_iou, factor=1, form=".3f"), *shares)
    return table


def _written(measured: Estimate, *, factor: float, form: str) -> str:
    if measured.value is None or measured.low is None or measured.high is None:
        return "-"
    value, low, high = (f"{factor * number:{form}}" for number in (measured.value, measured.low, measured.high))
    return f"{value} ({low}-{high})"


def _track(indices: Sequence[int]) -> Any:
    return tracked(indices, "photos")
