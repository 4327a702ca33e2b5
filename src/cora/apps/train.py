"""`cora train`: check everything, then run the stages of `cora.training.pipeline`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import Command, CommandGroup
from cora.apps.data_options import ImageOptions, ProcessOptions, RecipeOptions, StageOptions
from cora.apps.model_options import device_option
from cora.apps.options import argument, group, option, switch
from cora.errors import OptionError, TrainingError
from cora.names import names_without

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cora.data.benchmarks import ImageSet
    from cora.data.class_split import ClassSplit
    from cora.data.coco import CocoDataset
    from cora.evaluation.held_out import HeldOut
    from cora.training.engine import Engine
    from cora.training.recipe import TrainRecipe

Stage = Literal["prompts", "localizer", "all"]


@dataclass(frozen=True, kw_only=True)
class VariantOptions(RecipeOptions):
    """Changes of a recipe that trains the localizer."""

    variant: (
        Literal["full", "no-prompt", "crops", "region-proposals", "conditional", "end-to-end", "oracle", "top-2"] | None
    ) = option(help="train one of the paper's comparisons in place of CORA (docs/training.md)")

    def changes(self, stage: str | None = None) -> list[str]:
        """As in the base class; the variant is a setting of the localizer."""
        return [f"localizer.variant={self.variant}"] * (self.variant is not None) + super().changes(stage)


@dataclass(frozen=True, kw_only=True)
class LocalizerSettings(VariantOptions, StageOptions):
    """Changes of a recipe, with options of their own for the localizer's most common settings."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `cora train all`."""

    stage: Stage = "all"
    recipe: Path | None = argument(
        nargs="?", metavar="RECIPE", help="Python file with recipe() (default: by the model)"
    )
    data: ImageOptions = group(ImageOptions)
    split: str | None = option(
        metavar="FILE", help='class split, of which the base classes are learned: JSON, "coco" or "lvis"'
    )
    all_classes: bool = switch(
        help="learn every class of the annotations that the split does not call novel, such as those of "
        "'cora pseudo-label'"
    )
    run_dir: Path = option("--run", required=True, writes=kinds.RUNS["all"], metavar="DIR", help="folder of the run")
    model: str | None = option(help="name or file to start from (default: the recipe's, nano without one)")
    val_images: Path | None = option(metavar="DIR", help="folder of held-out images")
    val_annotations: Path | None = option(help="their boxes; measured while training, never trained on")
    every: int | None = option(type=positive, help="epochs between two measurements")
    settings: RecipeOptions = group(VariantOptions)
    processes: ProcessOptions = group(ProcessOptions, again="goes on after every stop")
    device: str = device_option()


@dataclass(frozen=True, kw_only=True)
class PromptsOptions(TrainOptions):
    """Options of `cora train prompts`."""

    stage: Stage = "prompts"
    run_dir: Path = option(
        "--run", required=True, writes=kinds.RUNS["prompts"], metavar="DIR", help="folder of the run"
    )
    settings: StageOptions = group(StageOptions)


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions(TrainOptions):
    """Options of `cora train localizer`."""

    stage: Stage = "localizer"
    run_dir: Path = option(
        "--run", required=True, writes=kinds.RUNS["localizer"], metavar="DIR", help="folder of the run"
    )
    settings: LocalizerSettings = group(LocalizerSettings)


def run(options: TrainOptions) -> int:
    """Run one stage of a recipe, or all of them, in one process or several; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    from cora.evaluation.held_out import check_extras

    check_extras("cora train", measures=options.val_annotations is not None)
    if options.every is not None and options.val_images is None:
        raise OptionError("expected --val-images and --val-annotations with --every, got none; leave --every out")
    prepare = partial(_Run, options)
    if options.processes.slurm is not None:
        return options.processes.submit(prepare, device=options.device, folder=options.run_dir / "slurm")
    return options.processes.run(prepare, device=options.device)


class _Run:
    """The work of every process. Making one checks the input; another process makes its own, from the options."""

    def __init__(self, options: TrainOptions) -> None:
        import cora
        from cora.data.benchmarks import image_set
        from cora.data.class_split import open_split
        from cora.data.same_content import tell_shared
        from cora.training.batches import fit_workers
        from cora.training.defaults import default_recipe
        from cora.training.recipe import load_recipe

        self.options = options
        recipe = load_recipe(options.recipe) if options.recipe is not None else None
        split = None if options.split is None else open_split(options.split)
        dataset = options.data.read(_learned(options, split))
        self.dataset, self.trained_on = image_set(dataset, split, training=True)
        self.held_out, self.tested_on = _read_held_out(options, split, self.dataset)
        if self.held_out is not None:
            tell_shared(self.dataset, self.held_out.dataset)
        self.detector = cora.load(_model(options, recipe)).detector
        self.detector.vocabulary_encoder.encode(self.dataset.class_names)  # names too long for the tower fail here
        short_side = self.detector.preprocessor.config.usual_short_side
        self.written = recipe or default_recipe(_model(options, None), short_side=short_side)
        self.recipe, self.fewer_workers = fit_workers(_staged(self.written, options))
        if self.held_out is not None:
            self.held_out = replace(self.held_out, all_boxes=self.recipe.all_boxes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options,)

    def __call__(self, engine: Engine) -> None:
        from cora.console import counted, output_console, progress_report, say, tracked
        from cora.training.batches import batch_lines
        from cora.training.pipeline import Hooks, TrainingPipeline

        held_out, detector, dataset = self.held_out, self.detector.to(engine.device), self.dataset
        console = output_console()

        def tell(line: str) -> None:
            if engine.is_main:
                say(console, line)

        for counts in (self.trained_on, self.tested_on):
            if counts is not None:
                tell(str(counts))
        images, boxes = counted(len(dataset), "image"), counted(int(dataset.class_counts().sum()), "box")
        tell(f"{images}, {boxes} of {counted(len(dataset.class_names), 'class')}")
        lines = batch_lines(self.recipe, processes=engine.world, written=self.written)
        for line in [*lines, *filter(None, [self.fewer_workers])]:
            tell(line)
        with progress_report(show=engine.is_main) as report:
            hooks = Hooks(
                measure_prompts=held_out.region_accuracy if held_out is not None else None,
                measure_localizer=held_out.ap50 if held_out is not None else None,
                best={"prompts": "accuracy_all", "localizer": "ap50_all"},
                report=report,
                say=tell,
            )
            pipeline = TrainingPipeline(
                recipe=self.recipe,
                detector=detector,
                dataset=dataset,
                run=self.options.run_dir,
                hooks=hooks,
                engine=engine,
            )
            pipeline.all()
            detector = pipeline.detector  # another object, where a variant was trained
        if held_out is not None and engine.is_main:
            scores = held_out.region_accuracy(detector, progress=partial(tracked, title="naming boxes"))
            if self.recipe.localizer:
                scores |= held_out.ap50(detector, progress=partial(tracked, title="measuring"))
            tell(", ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items()))
            self._beside_published(tell, scores)

    def _beside_published(self, tell: Callable[[str], None], scores: Mapping[str, float]) -> None:
        """Print the published numbers of the recipe, unless a variant was trained, which they are not of."""
        localizer = self.recipe.localizer
        if localizer is None or localizer.variant != "full":
            return
        for name, published in self.recipe.published.items():
            here = f"{100 * scores[name]:.1f} % here" if name in scores else "not measured here"
            tell(f"{name}: {published:.1f} % published, {here}")


def _learned(options: TrainOptions, split: ClassSplit | None) -> tuple[str, ...] | None:
    """Names of the classes to learn; None for all."""
    if split is None or not options.all_classes:
        return split.base if split is not None else None
    names = options.data.read().class_names
    return (*split.base, *names_without(names, split.all))


def _read_held_out(
    options: TrainOptions, split: ClassSplit | None, dataset: CocoDataset
) -> tuple[HeldOut | None, ImageSet | None]:
    """The images to measure on, of all classes of the split, and how many of the annotated ones they are."""
    from cora.data.benchmarks import image_set
    from cora.data.read import read_held_out
    from cora.evaluation.held_out import HeldOut, groups_of_split

    names = dataset.class_names if split is None else split.all
    held_out = read_held_out(options.val_images, options.val_annotations, names)
    if held_out is None:
        return None, None
    held_out, counts = image_set(held_out, split, training=False)
    return HeldOut(dataset=held_out, groups=groups_of_split(split, dataset.class_names)), counts


def _model(options: TrainOptions, recipe: TrainRecipe | None) -> str:
    """The model to start from: that of --model, else the prompt that this run has trained, else the recipe's."""
    from cora.training.pipeline import PROMPTED

    if options.model is not None:
        return str(options.model)
    prompted = options.run_dir / PROMPTED
    if options.stage == "localizer" and prompted.is_file():
        return str(prompted)
    return recipe.model if recipe is not None else "nano"


def _staged(recipe: TrainRecipe, options: TrainOptions) -> TrainRecipe:
    """The recipe with the changes of the options, reduced to the stage that was asked for."""
    from cora.training.override import override

    recipe = override(recipe, options.settings.changes(options.stage))
    if options.every is not None:
        recipe = replace(recipe, evaluate_every=options.every)
    if options.stage == "all":
        return recipe
    if getattr(recipe, options.stage) is None:
        raise TrainingError(f"expected a recipe with the stage {options.stage}, got one without; name another recipe")
    alone: dict[str, Any] = {"prompts": None, "names": None, "relabel": None, "localizer": None}
    alone[options.stage] = getattr(recipe, options.stage)
    return replace(recipe, **alone)


def _stage(stage: Stage, options: type[TrainOptions], text: str) -> Command[Any]:
    return Command(
        name=stage,
        options=options,
        run=run,
        help=text,
        description=f"{text.capitalize()}.",
        epilog="The same command again goes on where the run stopped. A recipe is a Python file that is executed: use "
        "your own or one that you have read.",
    )


COMMAND = CommandGroup(
    name="train",
    help="train the region prompt, the localizer, or all",
    description="Train the region prompt, the localizer, or all, from a recipe or plain options.",
    title="stage",
    commands=(
        _stage("prompts", PromptsOptions, "train the region prompt on ground-truth boxes"),
        _stage("localizer", LocalizerOptions, "train the localizer"),
        _stage("all", TrainOptions, "train prompts, relabel, train the localizer"),
    ),
)
