"""`cora finetune`: hold out images, measure, train class names and boxes, measure again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps import kinds
from cora.apps.argument_types import score, share
from cora.apps.command import Command
from cora.apps.data_options import ImageOptions, StageOptions, write_numbers
from cora.apps.model_options import device_option, model_option
from cora.apps.options import group, option
from cora.errors import DataError, OptionError
from cora.names import names_without

if TYPE_CHECKING:
    from cora.data.coco import CocoDataset, CocoImage
    from cora.detector import Detector
    from cora.evaluation.best_threshold import BestThreshold
    from cora.evaluation.coco_ap import BoxEvaluation
    from cora.evaluation.held_out import HeldOut
    from cora.training.recipe import TrainRecipe

#: The sets that are measured, as tables and files name them.
_OWN, _REMEMBERED = "own photos", "remembered"

#: Sets of fewer images than this are not divided, whatever --hold-out says: too few would be left to learn from.
FEWEST_TO_DIVIDE = 5
REPORT, BEFORE = "report.json", "before.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Options of `cora finetune`."""

    data: ImageOptions = group(ImageOptions)
    novel: str = option(
        default="",
        metavar="NAMES",
        help='classes to measure but not to train on, "a, b" or @FILE: they show how such new classes fare',
    )
    model: str = model_option("name or file to start from")
    run_dir: Path = option(
        "--run",
        default=Path("cora-finetune"),
        writes=kinds.FINETUNE_RUN,
        metavar="DIR",
        help="folder of the run (default: %(default)s)",
    )
    output: Path | None = option(writes=kinds.MODEL, help="model file to write (default: model.safetensors in the run)")
    hold_out: float = option(
        type=share,
        default=0.2,
        metavar="SHARE",
        help="share of the images that is measured on and not trained on (default: %(default)s; 0 trains on all)",
    )
    val_images: Path | None = option(metavar="DIR", help="measure on these images instead")
    val_annotations: Path | None = option(help="their boxes")
    teach: Literal["all", "names"] = option(
        default="all",
        help="names: train offsets of the class names alone, so that the localizer and other names stay as they are "
        "(default: %(default)s)",
    )
    prototypes: float | None = option(
        type=score,
        metavar="SHARE",
        help="start each class from a mix of its text embedding and of the mean embedding of its boxes, which has this "
        "share (default: 0)",
    )
    keep: float | None = option(
        type=share,
        metavar="SHARE",
        help="share of the former weights in the localizer: the higher, the less it forgets and learns (default: 0)",
    )
    remember_images: Path | None = option(
        metavar="DIR", help="images of classes that the model knows already, to measure what it forgets"
    )
    remember_annotations: Path | None = option(help="their boxes")
    remember_split: str | None = option(metavar="FILE", help='their class split: JSON, "coco" or "lvis"')
    settings: StageOptions = group(StageOptions)
    device: str = device_option()


def run(options: FinetuneOptions) -> int:
    """Adapt a model to one's own boxes; prints AP50 before and after, writes model and report; returns 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    from functools import partial

    from cora.apps.open_model import open_torch_detector
    from cora.console import IS, counted, output_console, say, tracked
    from cora.data.name_file import read_names
    from cora.detector.checkpoint import check_model_file
    from cora.evaluation.before_after import (
        before_after_table,
        classes_table,
        evaluate_sets,
        forgotten,
        scores_by_group,
    )
    from cora.evaluation.best_threshold import store
    from cora.evaluation.held_out import HeldOut, check_extras
    from cora.predictor.device import pick_device
    from cora.training.pipeline import MODEL

    if options.teach == "names" and options.keep is not None:
        raise OptionError("--keep: expected it without --teach names, which trains no localizer; leave one of them out")
    if options.remember_split is not None and options.remember_images is None:
        raise OptionError(
            "expected --remember-images and --remember-annotations with --remember-split, got none; leave it out"
        )
    check_extras("cora finetune", measures=True)
    output = options.output or options.run_dir / MODEL
    check_model_file(output)
    pick_device(options.device)  # which fails before the images are read
    whole = options.data.read()
    base, novel = _divide_classes(whole.class_names, read_names(options.novel, "--novel") if options.novel else ())
    train_set, held_out = _divide_photos(options, whole, base, novel)
    remembered = HeldOut.read(
        options.remember_images, options.remember_annotations, options.remember_split, option="remember"
    )
    sets = {_OWN: held_out, _REMEMBERED: remembered}
    detector = open_torch_detector(options.model, options.device, needs="cora finetune")
    detector.vocabulary_encoder.encode((*base, *novel))  # names too long for the tower fail here
    recipe = _recipe(options, detector, train_set.records)
    console = output_console()
    tell = partial(say, console)
    tell(
        f"Learning {counted(len(base), 'class')} from {counted(int(train_set.class_counts().sum()), 'box')} in "
        f"{counted(len(train_set), 'image')}; "
        + (counted(len(held_out.dataset), "image", IS) if held_out is not None else "none is")
        + " held out"
    )
    before = _train(options, recipe, detector, train_set, sets)
    found = evaluate_sets(detector, sets)
    after = scores_by_group(found, sets)
    # The model has learned its classes against everyday names, which therefore need not compete any more.
    judges = held_out if held_out is not None else HeldOut(dataset=train_set)
    best = judges.best_threshold(
        detector, evaluation=found.get(_OWN), progress=partial(tracked, title="score threshold")
    )
    store(detector, best, distractors="none")
    detector.config = replace(detector.config, class_names=(*base, *novel))
    for file in dict.fromkeys((options.run_dir / MODEL, output)):
        detector.save(file)
    by_class = {} if held_out is None else held_out.of_classes(found[_OWN])
    write_numbers(
        options.run_dir / REPORT,
        {
            "classes": {"base": base, "novel": novel},
            "photos": {"trained": len(train_set), "held_out": len(held_out.dataset) if held_out is not None else 0},
            "recipe": recipe.to_dict(),
            "score_threshold": {
                "stored": detector.config.postprocess.score_threshold,
                "images": len(judges.dataset),
                "held_out": held_out is not None,
                "best": None if best is None else best.as_dict(),
            },
            "before": before,
            "after": after,
            "classes_after": {name: score.as_dict() for name, score in by_class.items()},
            "held_out": [] if held_out is None else [str(record.path) for record in held_out.dataset.records],
        },
    )
    if after:
        console.print(before_after_table(before, after))
    if held_out is not None and len(by_class) > 1:
        console.print(classes_table(by_class, held_out.dataset))
    if _REMEMBERED in after and (lost := forgotten(before[_REMEMBERED], after[_REMEMBERED])):
        tell(f"Forgotten: {lost}. The same command with --keep 0.5 gives some of it back, without training again")
    tell(_threshold_line(best, detector, images=len(judges.dataset), held_out=held_out is not None))
    if held_out is not None:
        _write_hold_out(options.run_dir, held_out, found[_OWN], tell)
    tell(f"Wrote {output}; use it with --model {output}")
    tell(f"Next: {_detect_command(judges.dataset, output)}")
    return 0


def _train(
    options: FinetuneOptions,
    recipe: TrainRecipe,
    detector: Detector,
    train_set: CocoDataset,
    sets: Mapping[str, HeldOut | None],
) -> dict[str, Any]:
    """Measure the sets once, unless an earlier call did, then train the detector in place; returns the scores."""
    from cora.console import progress_report
    from cora.evaluation.before_after import evaluate_sets, key_of_sets, measure_once, scores_by_group
    from cora.training.pipeline import Hooks, TrainingPipeline

    with progress_report() as report:
        pipeline = TrainingPipeline(
            recipe=recipe, detector=detector, dataset=train_set, run=options.run_dir, hooks=Hooks(report=report)
        )
        pipeline.check()
        before = measure_once(
            options.run_dir / BEFORE,
            key_of_sets(detector, sets),
            lambda: scores_by_group(evaluate_sets(detector, sets), sets),
        )
        pipeline.all()
    return before


def _detect_command(dataset: CocoDataset, model: Path) -> str:
    """A command to try next, on an image of the dataset; the model knows its own class names."""
    import shlex

    from cora.data.shards import ShardDataset

    image = "photo.jpg" if isinstance(dataset, ShardDataset) else str(dataset.records[0].path)
    return shlex.join(["cora", "detect", image, "--model", str(model)])


def _write_hold_out(run: Path, held_out: HeldOut, evaluation: BoxEvaluation, tell: Callable[[str], None]) -> None:
    """List the held-out images in a file, and draw what was found, missed and confused in some of them."""
    from cora.data.hold_out import write_hold_out
    from cora.data.shards import ShardDataset
    from cora.evaluation.example_images import write_sheets

    if isinstance(held_out.dataset, ShardDataset):  # its images are not files of their own
        return
    file = write_hold_out(run, held_out.dataset)
    sheets = write_sheets(run, evaluation, held_out.dataset)
    if sheets:
        tell(f"Held-out images with what was found, missed and confused: {', '.join(map(str, sheets))}")
    tell(f"The held-out images are listed in {file}; 'cora evaluate --run {run}' measures on them")


def _threshold_line(best: BestThreshold | None, detector: Detector, *, images: int, held_out: bool) -> str:
    """The score threshold, and the images that it was set on, in words."""
    from cora.console import counted
    from cora.evaluation.best_threshold import NOTHING_RIGHT, described

    kind = "held out" if held_out else "of the training, as none is held out: new ones will give less"
    where = f"{counted(images, 'image')} {kind}"
    if best is None:
        stays = detector.config.postprocess.score_threshold
        return f"No box is right {NOTHING_RIGHT} on {where}; the score threshold stays {stays:g}"
    return f"{described(best)}, on {where}"


def _divide_classes(names: Sequence[str], novel: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base and novel classes; the base classes are all that are not named as novel."""
    unknown = names_without(novel, names)
    if unknown:
        raise DataError(
            f"--novel: expected classes of the annotations, got {len(unknown)} unknown: {', '.join(unknown[:5])}; "
            f"they have {', '.join(names[:10])}"
        )
    base = tuple(names_without(names, novel))
    if not base:
        raise DataError(f"--novel: expected a class to learn from, got all {len(names)} as novel; leave some out")
    return base, tuple(name for name in names if name not in base)


def _divide_photos(
    options: FinetuneOptions, whole: CocoDataset, base: tuple[str, ...], novel: tuple[str, ...]
) -> tuple[CocoDataset, HeldOut | None]:
    """Images to train on, with boxes of the base classes, and images to measure on, with all boxes, if there are."""
    from cora.data.hold_out import divide_images
    from cora.data.read import read_held_out
    from cora.data.same_content import image_groups, tell_shared
    from cora.evaluation.held_out import HeldOut, groups_of

    groups = groups_of(base, novel)
    learned = options.data.read(base) if novel else whole
    held_out = None
    chosen: set[int] = set()
    dataset = read_held_out(options.val_images, options.val_annotations, (*base, *novel))
    if dataset is not None:
        held_out = HeldOut(dataset=dataset, groups=groups)
        tell_shared(learned, dataset)
    elif options.hold_out and len(copies := image_groups([r.path for r in whole.records])) >= FEWEST_TO_DIVIDE:
        # All copies of an image are held out, or none.
        classes = [[c for place in group for c in whole.records[place].classes.tolist()] for group in copies]
        drawn = divide_images(classes, share=options.hold_out, seed=options.settings.seed or 0)
        chosen = {place for number in drawn for place in copies[number]}
        held_out = HeldOut(dataset=_subset(whole, lambda place: place in chosen), groups=groups)
    # An image whose boxes are all of novel classes would teach that these are background.
    empty = {place for place, record in enumerate(whole.records) if not len(record.classes)}
    boxes = [len(record.classes) for record in learned.records]
    train_set = _subset(learned, lambda place: place not in chosen and (boxes[place] > 0 or place in empty))
    if not int(train_set.class_counts().sum()):
        raise DataError(f"expected boxes to learn from, got none in the {len(train_set)} images left for training")
    return train_set, held_out


def _subset(dataset: CocoDataset, wanted: Callable[[int], bool]) -> CocoDataset:
    return dataset.with_records(record for place, record in enumerate(dataset.records) if wanted(place))


def _recipe(options: FinetuneOptions, detector: Detector, images: Sequence[CocoImage]) -> TrainRecipe:
    """The recipe for fine-tuning this model on these images, with the changes of the options."""
    from cora.training.defaults import finetune_recipe
    from cora.training.override import override

    recipe = finetune_recipe(
        options.model,
        short_side=detector.preprocessor.typical_short_side([image.size for image in images]),
        photos=len(images),
        trunk=detector.image_tower.box_trunk is not None,
    )
    start = [] if options.prototypes is None else [f"names.prototypes={options.prototypes}"]
    if options.teach == "names":
        alone = ["proposals=None", "localizer=None"]
        return override(recipe, [*start, *alone, *options.settings.changes("names")])
    kept = [] if options.keep is None else [f"localizer.keep={options.keep}"]
    # The options set both stages that train boxes, but for the learning rate, which differs between them.
    shared = {name: getattr(options.settings, name) for name in ("epochs", "batch", "precision")}
    proposals = [
        f"proposals.{name}={value}" for name, value in shared.items() if value is not None and recipe.proposals
    ]
    return override(recipe, [*start, *kept, *proposals, *options.settings.changes("localizer")])


COMMAND = Command(
    name="finetune",
    options=FinetuneOptions,
    run=run,
    help="adapt a model to your own boxes",
    description="Adapt a model to your own boxes: teaches it the names and the boxes of a small annotated set.",
    epilog="The same command again goes on where the run stopped.",
)
