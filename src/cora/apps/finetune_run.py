"""What `cora finetune` does: divide the images, measure, teach names and boxes, measure again."""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

import cora
from cora.apps.device import pick_device
from cora.apps.example_images import write_sheets
from cora.apps.held_out import HeldOut, check_extras, groups_of
from cora.apps.hold_out import write_hold_out
from cora.apps.image_sets import testing_images
from cora.apps.model_options import read_names
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import check_model_file
from cora.apps.score_threshold import NOTHING_RIGHT, described, images_of, store
from cora.apps.train_options import settings
from cora.apps.train_run import read_photos
from cora.console import output_console, progress_report, say, tracked
from cora.data.class_split import open_split
from cora.data.coco import CocoDataset, CocoImage
from cora.data.read import read_dataset
from cora.data.same_content import image_groups, tell_shared
from cora.data.shards import ShardDataset
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import DataError
from cora.evaluation.base_novel import GroupScore
from cora.evaluation.best_threshold import BestThreshold
from cora.evaluation.coco_ap import BoxEvaluation
from cora.files import write_json
from cora.names import names_without, quoted_name
from cora.training.defaults import finetune_recipe
from cora.training.override import override
from cora.training.pipeline import MODEL, Hooks, TrainingPipeline
from cora.training.recipe import TrainRecipe

#: Sets of fewer images than this are not divided unless that is asked for: nothing would be left to learn from.
FEWEST_TO_DIVIDE = 5
#: Random divisions, of which the one that keeps the classes' shares best is taken.
DRAWS = 64
REPORT, BEFORE = "report.json", "before.json"
#: Classes in the table by class, and names in the command that is shown next.
SHOWN_CLASSES, SHOWN_NAMES = 30, 8

Scores = dict[str, dict[str, Any]]


def finetune(args: argparse.Namespace) -> int:
    """Adapt a model to one's own boxes; prints AP50 before and after, writes model and report; returns 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    check_extras("cora finetune", measures=True)
    output = args.output or args.run_dir / MODEL
    check_model_file(output)
    pick_device(args.device)  # which fails before the images are read
    whole = read_photos(args, None)
    base, novel = _divide_classes(whole.class_names, read_names(args.novel, "--novel") if args.novel else ())
    train_set, held_out = _divide_photos(args, whole, base, novel)
    remembered = _remembered(args)
    detector = open_torch_detector(args.model, args.device, needs="cora finetune")
    detector.vocabulary_encoder.encode((*base, *novel))  # names too long for the tower fail here
    recipe = _recipe(args, detector, train_set.records)
    console = output_console()

    tell = partial(say, console)
    tell(
        f"Learning {len(base)} classes from {int(train_set.class_counts().sum())} boxes in {len(train_set)} images; "
        + (f"{len(held_out.dataset)} images are held out" if held_out is not None else "none is held out")
    )
    sets = {"own photos": held_out, "remembered": remembered}
    with progress_report() as report:
        pipeline = TrainingPipeline(
            recipe=recipe, detector=detector, dataset=train_set, run=args.run_dir, hooks=Hooks(report=report)
        )
        pipeline.check()
        before = _once(args.run_dir / BEFORE, _key(detector, sets), lambda: _grouped(_evaluated(detector, sets), sets))
        pipeline.all()
    found = _evaluated(detector, sets)
    after = _grouped(found, sets)
    # The classes were taught against everyday names: these need not compete any more.
    judges = held_out if held_out is not None else HeldOut(dataset=train_set)
    best = judges.best_threshold(detector, progress=partial(tracked, title="score threshold"))
    store(detector, best, distractors="none")
    detector.config = replace(detector.config, class_names=(*base, *novel))
    for file in dict.fromkeys((args.run_dir / MODEL, output)):
        detector.save(file)
    by_class = {} if held_out is None else held_out.of_classes(found["own photos"])
    write_json(
        args.run_dir / REPORT,
        {
            "command": ["cora", *sys.argv[1:]],
            "version": cora.__version__,
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
        console.print(_table(before, after))
    if held_out is not None and len(by_class) > 1:
        console.print(_class_table(by_class, held_out.dataset))
    if "remembered" in after and (lost := forgotten(before["remembered"], after["remembered"])):
        tell(f"Forgotten: {lost}. The same command with --keep 0.5 gives some of it back, without training again")
    tell(_told(best, detector, images=len(judges.dataset), held_out=held_out is not None))
    if held_out is not None:
        _keep_hold_out(args.run_dir, held_out, found["own photos"], tell)
    tell(f"Wrote {output}; use it with --model {output}")
    shown = held_out.dataset if held_out is not None else train_set
    example = "photo.jpg" if isinstance(shown, ShardDataset) else shown.records[0].path
    names = ", ".join(map(quoted_name, (*base, *novel)[:SHOWN_NAMES]))
    tell(f"Next: {shlex.join(['cora', 'detect', str(example), '--classes', names, '--model', str(output)])}")
    return 0


def _keep_hold_out(run: Path, held_out: HeldOut, evaluation: BoxEvaluation, tell: Callable[[str], None]) -> None:
    """Write which images were held out, and sheets of what was found there and what was not."""
    if isinstance(held_out.dataset, ShardDataset):  # its images are no files, to draw or to list
        return
    file = write_hold_out(run, held_out.dataset)
    sheets = write_sheets(run, evaluation, held_out.dataset)
    if sheets:
        tell(f"Held-out images with what was found, missed and confused: {', '.join(map(str, sheets))}")
    tell(f"The held-out images are listed in {file}; 'cora evaluate --run {run}' measures on them")


def _told(best: BestThreshold | None, detector: Detector, *, images: int, held_out: bool) -> str:
    """What the score threshold is, and what it was set on."""
    kind = "held out" if held_out else "of the training, as none is held out: new ones will give less"
    where = f"{images_of(images)} {kind}"
    if best is None:
        stays = detector.config.postprocess.score_threshold
        return f"No box is right {NOTHING_RIGHT} on {where}; the score threshold stays {stays:g}"
    return f"{described(best)}, on {where}"


def divide(classes: Sequence[Sequence[int]], *, share: float, seed: int) -> list[int]:
    """Which images to hold out: about `share` of them and of the boxes of every class, at random by `seed`.

    Args:
        classes: for every image the classes of its boxes.
        share: 0..1; at least one image is held out and one left.
        seed: of the draws.

    Returns:
        Sorted indices; a class that more than one image has stays in at least one of the others.
    """
    count = len(classes)
    wanted = min(max(1, round(share * count)), count - 1)
    number = 1 + max((c for one in classes for c in one), default=0)
    boxes = torch.zeros(count, number)
    for photo, one in enumerate(classes):
        boxes[photo] = torch.bincount(torch.tensor(one, dtype=torch.int64), minlength=number).float()
    total, present = boxes.sum(dim=0).clamp(min=1), (boxes > 0).sum(dim=0)
    random = torch.Generator().manual_seed(seed)
    best, least = torch.arange(wanted), float("inf")
    for _ in range(DRAWS):
        drawn = torch.randperm(count, generator=random)[:wanted]
        away = ((boxes[drawn].sum(dim=0) / total - wanted / count).abs() * (present > 0)).sum()
        lost = ((boxes[drawn] > 0).sum(dim=0) == present) & (present > 0)
        cost = float(away) + number * float(lost.sum())
        if cost < least:
            best, least = drawn, cost
    return sorted(best.tolist())


def forgotten(before: Scores, after: Scores) -> str:
    """Groups whose AP50 fell below the interval that it had before, in words; empty where none did."""
    return ", ".join(
        f"AP50 of {group} fell from {_percent(score['ap50'])} to {100 * now:.1f}"
        for group, score in before.items()
        if (low := score["ap50"].get("low")) is not None
        and (now := after[group]["ap50"].get("value")) is not None
        and now < low
    )


def _divide_classes(names: Sequence[str], novel: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    strangers = names_without(novel, names)
    if strangers:
        raise DataError(
            f"--novel: expected classes of the annotations, got {len(strangers)} others: {', '.join(strangers[:5])}; "
            f"they have {', '.join(names[:10])}"
        )
    base = tuple(names_without(names, novel))
    if not base:
        raise DataError(f"--novel: expected a class to learn from, got all {len(names)} as novel; leave some out")
    return base, tuple(name for name in names if name not in base)


def _divide_photos(
    args: argparse.Namespace, whole: CocoDataset, base: tuple[str, ...], novel: tuple[str, ...]
) -> tuple[CocoDataset, HeldOut | None]:
    """Images to learn from, with boxes of the base classes, and images to measure on, with all boxes."""
    groups = groups_of(base, novel)
    learned = read_photos(args, base) if novel else whole
    held_out = None
    chosen: set[int] = set()
    if (args.val_images is None) != (args.val_annotations is None):
        raise DataError("expected --val-images and --val-annotations together, got one of them")
    if args.val_annotations is not None:
        dataset = read_dataset(images=args.val_images, annotations=args.val_annotations, class_names=(*base, *novel))
        held_out = HeldOut(dataset=dataset, groups=groups)
        tell_shared(learned, dataset)
    elif args.hold_out and len(together := image_groups([r.path for r in whole.records])) >= FEWEST_TO_DIVIDE:
        # Copies of an image are on one side.
        classes = [[c for place in group for c in whole.records[place].classes.tolist()] for group in together]
        drawn = divide(classes, share=args.hold_out, seed=args.seed or 0)
        chosen = {place for number in drawn for place in together[number]}
        held_out = HeldOut(dataset=_subset(whole, lambda place: place in chosen), groups=groups)
    # An image whose boxes are all of novel classes would teach that these are background.
    empty = {place for place, record in enumerate(whole.records) if not len(record.classes)}
    boxes = [len(record.classes) for record in learned.records]
    train_set = _subset(learned, lambda place: place not in chosen and (boxes[place] > 0 or place in empty))
    if not int(train_set.class_counts().sum()):
        raise DataError(f"expected boxes to learn from, got none in the {len(train_set)} images left for training")
    return train_set, held_out


def _subset(dataset: CocoDataset, wanted: Callable[[int], bool]) -> CocoDataset:
    part = copy.copy(dataset)
    part.records = [record for place, record in enumerate(dataset.records) if wanted(place)]
    return part


def _remembered(args: argparse.Namespace) -> HeldOut | None:
    if (args.remember_images is None) != (args.remember_annotations is None):
        raise DataError("expected --remember-images and --remember-annotations together, got one of them")
    if args.remember_annotations is None:
        return None
    split = None if args.remember_split is None else open_split(args.remember_split)
    dataset = read_dataset(
        images=args.remember_images,
        annotations=args.remember_annotations,
        class_names=split.all if split is not None else None,
    )
    dataset = testing_images(dataset, split)
    groups = groups_of(split.base, split.novel) if split is not None else groups_of(dataset.class_names, ())
    return HeldOut(dataset=dataset, groups=groups)


def _recipe(args: argparse.Namespace, detector: Detector, images: Sequence[CocoImage]) -> TrainRecipe:
    recipe = finetune_recipe(
        args.model,
        short_side=detector.preprocessor.typical_short_side([image.size for image in images]),
        photos=len(images),
        trunk=detector.image_tower.box_trunk is not None,
    )
    kept = [] if args.keep is None else [f"localizer.keep={args.keep}"]
    # A rate is of one stage; how long and how many images a step, of both that teach boxes.
    alike = {name: getattr(args, name) for name in ("epochs", "batch", "precision")}
    both = [f"proposals.{name}={value}" for name, value in alike.items() if value is not None and recipe.proposals]
    return override(recipe, [*kept, *both, *settings(args, stage="localizer")])


def _evaluated(detector: Detector, sets: Mapping[str, HeldOut | None]) -> dict[str, BoxEvaluation]:
    return {
        name: one.evaluate(detector, progress=partial(tracked, title=f"measuring {name}"))
        for name, one in sets.items()
        if one is not None
    }


def _grouped(found: Mapping[str, BoxEvaluation], sets: Mapping[str, HeldOut | None]) -> dict[str, Scores]:
    """Set -> group -> AP50 with its interval, AP and recall."""
    return {
        name: {group: score.as_dict() for group, score in one.of_groups(found[name]).items()}
        for name, one in sets.items()
        if one is not None
    }


def _key(detector: Detector, sets: Mapping[str, HeldOut | None]) -> dict[str, Any]:
    photos = {name: [r.image_id for r in one.dataset.records] for name, one in sets.items() if one is not None}
    return {"model": weights_fingerprint(detector), "photos": photos}


def _once(path: Path, key: dict[str, Any], measure: Callable[[], dict[str, Scores]]) -> dict[str, Scores]:
    """What was measured before the run was interrupted, or measured now."""
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("key") == key:
            found: dict[str, Scores] = content["scores"]
            return found
    found = measure()
    write_json(path, {"key": key, "scores": found})
    return found


def _table(before: Mapping[str, Scores], after: Mapping[str, Scores]) -> Table:
    table = Table(title="AP50, % (95 % interval)", title_justify="left")
    for column, justify in (("", "left"), ("classes", "right"), ("before", "right"), ("after", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, groups in after.items():
        for group, score in groups.items():
            cells = (_percent(one[name][group]["ap50"]) for one in (before, after))
            table.add_row(f"{name}, {group}", str(score["classes"]), *cells)
    return table


def _class_table(by_class: Mapping[str, GroupScore], dataset: CocoDataset) -> Table:
    """AP50 of every class of the hold-out, the worst first."""
    counts = dict(zip(dataset.class_names, dataset.class_counts().tolist(), strict=True))
    table = Table(title="Held-out images, by class", title_justify="left")
    for column, justify in (("class", "left"), ("boxes", "right"), ("AP50, % (95 % interval)", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    worst = sorted(by_class.items(), key=lambda item: item[1].ap50.value or 0.0)
    for name, score in worst[:SHOWN_CLASSES]:
        table.add_row(Text(name), str(counts[name]), _percent(score.ap50.as_dict()))
    if len(worst) > SHOWN_CLASSES:
        table.add_row(f"{len(worst) - SHOWN_CLASSES} better ones", "", "in report.json")
    return table


def _percent(ap50: Mapping[str, float | None]) -> str:
    value, low, high = (ap50.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" ({100 * low:.1f}-{100 * high:.1f})"
    return f"{100 * value:.1f}{interval}"
