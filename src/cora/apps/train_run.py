"""What `cora train` and `cora relabel` do: check everything, then run the stages of `cora.training.pipeline`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import cora
from cora.apps.held_out import HeldOut, check_extras, groups_of
from cora.apps.image_sets import training_images
from cora.apps.processes import run_together, submit
from cora.apps.train_options import settings
from cora.console import output_console, progress_report, say, tracked
from cora.data.benchmarks import ImageSet, image_set
from cora.data.class_split import ClassSplit, open_split
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.data.same_content import tell_shared
from cora.detector import Detector
from cora.errors import DataError, TrainingError
from cora.files import write_json
from cora.names import names_without
from cora.training.batches import batch_lines
from cora.training.defaults import default_recipe
from cora.training.engine import Engine
from cora.training.override import override
from cora.training.pipeline import PROMPTED, Hooks, TrainingPipeline
from cora.training.recipe import TrainRecipe, load_recipe
from cora.training.relabel import plot_confusion, relabel


def run_training(args: argparse.Namespace) -> int:
    """Run one stage of a recipe, or all of them, in one process or several; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    check_extras("cora train", measures=args.val_annotations is not None)
    prepare = partial(_Run, args)
    if args.slurm is not None:
        return submit(args, prepare, folder=args.run_dir / "slurm")
    return run_together(args, prepare)


class _Run:
    """What every process does; checked before processes are started, in which it is made again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        return {"args": self.args}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.args = state["args"]
        self._prepare()

    def _prepare(self) -> None:
        args = self.args
        recipe = load_recipe(args.recipe) if args.recipe is not None else None
        split = None if args.split is None else open_split(args.split)
        dataset = read_photos(args, _learned(args, split))
        self.dataset, self.trained_on = image_set(dataset, split, training=True)
        self.held_out, self.tested_on = read_held_out(args, split, self.dataset)
        if self.held_out is not None:
            tell_shared(self.dataset, self.held_out.dataset)
        self.detector = cora.load(_model(args, recipe)).detector
        self.detector.vocabulary_encoder.encode(self.dataset.class_names)  # names too long for the tower fail here
        short_side = self.detector.preprocessor.config.usual_short_side
        self.written = recipe or default_recipe(_model(args, None), short_side=short_side)
        self.recipe = _staged(self.written, args)
        if self.held_out is not None:
            self.held_out = replace(self.held_out, all_boxes=self.recipe.all_boxes)

    def __call__(self, engine: Engine) -> None:
        held_out, detector, dataset = self.held_out, self.detector.to(engine.device), self.dataset
        console = output_console()

        def tell(line: str) -> None:
            if engine.is_main:
                say(console, line)

        for counts in (self.trained_on, self.tested_on):
            if counts is not None:
                tell(str(counts))
        tell(f"{len(dataset)} images, {int(dataset.class_counts().sum())} boxes of {len(dataset.class_names)} classes")
        for line in batch_lines(self.recipe, processes=engine.world, written=self.written):
            tell(line)
        with progress_report(show=engine.is_main) as report:
            hooks = Hooks(
                measure_prompts=held_out.region_accuracy if held_out is not None else None,
                measure_localizer=held_out.ap50 if held_out is not None else None,
                best={"prompts": "accuracy_all", "localizer": "ap50_all"},
                report=report,
                say=tell,
            )
            TrainingPipeline(
                recipe=self.recipe,
                detector=detector,
                dataset=dataset,
                run=self.args.run_dir,
                hooks=hooks,
                engine=engine,
            ).all()
        if held_out is not None and engine.is_main:
            scores = held_out.region_accuracy(detector, progress=partial(tracked, title="naming boxes"))
            if self.recipe.localizer:
                scores |= held_out.ap50(detector, progress=partial(tracked, title="measuring"))
            tell(", ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items()))


def run_relabelling(args: argparse.Namespace) -> int:
    """Write a copy of the annotations with the classifier's choice for every box; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    if args.slurm is None:
        return run_together(args, lambda: partial(_relabel, args))

    def prepare() -> Callable[[Engine], None]:
        _read_relabelling(args)
        return partial(_relabel, args)

    return submit(args, prepare, folder=args.output.with_suffix(".slurm"), restarts=0)


def _relabel(args: argparse.Namespace, engine: Engine) -> None:
    """What every process does: the first reads, tells and writes."""
    read, detector = _read_relabelling(args) if engine.is_main else (None, None)
    dataset: CocoDataset = engine.broadcast(read)
    detector = (cora.load(args.model).detector if detector is None else detector).to(engine.device)
    with progress_report(show=engine.is_main) as report:
        agreement = relabel(
            detector=detector,
            vocabulary=detector.vocabulary_encoder.encode(dataset.class_names).to(engine.device),
            dataset=dataset,
            output=args.output,
            on_progress=lambda done, total: report("relabel", done, total),
            engine=engine,
        )
    if not engine.is_main:
        return
    if args.json is not None:
        write_json(args.json, asdict(agreement))
    if args.plot is not None:
        plot_confusion(agreement, args.plot)
    share = f"{agreement.agreed} of {agreement.boxes} boxes keep their class ({agreement.share:.1%})"
    say(output_console(), f"{share}; wrote {args.output}")


def _read_relabelling(args: argparse.Namespace) -> tuple[CocoDataset, Detector]:
    split = None if args.split is None else open_split(args.split)
    dataset = training_images(read_photos(args, split.base if split is not None else None), split)
    return dataset, cora.load(args.model).detector


def read_photos(args: argparse.Namespace, class_names: tuple[str, ...] | None) -> CocoDataset:
    """The images to train on; there must be boxes to learn from."""
    return read_dataset(
        images=args.images,
        annotations=args.annotations,
        class_names=class_names,
        format=args.format,
        skip_bad=args.skip_bad,
    )


def _learned(args: argparse.Namespace, split: ClassSplit | None) -> tuple[str, ...] | None:
    """Names of the classes to learn; None for all."""
    if split is None or not args.all_classes:
        return split.base if split is not None else None
    names = read_photos(args, None).class_names
    return (*split.base, *names_without(names, split.all))


def read_held_out(
    args: argparse.Namespace, split: ClassSplit | None, dataset: CocoDataset
) -> tuple[HeldOut | None, ImageSet | None]:
    """The images to measure on, and how many of a benchmark's; with a split its novel classes are measured, too."""
    if (args.val_images is None) != (args.val_annotations is None):
        raise DataError("expected --val-images and --val-annotations together, got one of them")
    if args.val_annotations is None:
        return None, None
    base, novel = (split.base, split.novel) if split is not None else (dataset.class_names, ())
    held_out = read_dataset(images=args.val_images, annotations=args.val_annotations, class_names=(*base, *novel))
    held_out, counts = image_set(held_out, split, training=False)
    return HeldOut(dataset=held_out, groups=groups_of(base, novel)), counts


def _model(args: argparse.Namespace, recipe: TrainRecipe | None) -> str:
    """What to start from: as told, else the prompt that the run has trained, else the recipe's."""
    if args.model is not None:
        return str(args.model)
    prompted = args.run_dir / PROMPTED
    if args.stage == "localizer" and prompted.is_file():
        return str(prompted)
    return recipe.model if recipe is not None else "nano"


def _staged(recipe: TrainRecipe, args: argparse.Namespace) -> TrainRecipe:
    """The recipe with the options' settings, and with the stage alone that was asked for."""
    recipe = override(recipe, settings(args, stage=None if args.stage == "all" else args.stage))
    if args.every is not None:
        recipe = replace(recipe, evaluate_every=args.every)
    if args.stage == "all":
        return recipe
    if getattr(recipe, args.stage) is None:
        raise TrainingError(f"expected a recipe with the stage {args.stage}, got one without; name another recipe")
    alone: dict[str, Any] = {"prompts": None, "names": None, "relabel": None, "localizer": None}
    alone[args.stage] = getattr(recipe, args.stage)
    return replace(recipe, **alone)
