"""Label many images and print what there is; `batch.py` has the arguments."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from cora.apps.batch_model import ModelChoice
from cora.apps.class_weights import weights_of_names
from cora.apps.competing import tell_distractors
from cora.apps.exemplar_options import gather
from cora.apps.looked_for import tell_names, usual_names, wanted_classes
from cora.apps.model_options import read_distractors
from cora.apps.text_options import read_text_options
from cora.apps.tile_options import read_tiles
from cora.batch import (
    BatchReport,
    DetectSettings,
    ExportSettings,
    Photos,
    ReviewSettings,
    Thresholds,
    Watch,
    check_export,
    kept_score,
    parse_thresholds,
    run_batch,
)
from cora.console import Bars, error_console, output_console, report, say
from cora.detector.postprocess import SCORE_THRESHOLD
from cora.errors import CoraError
from cora.regions import other_prompts

_SHOWN_CLASSES = 10


def batch(args: argparse.Namespace) -> int:
    """Everything that can be checked is checked before the first image is read; returns the exit code.

    Raises:
        CoraError: bad input.
    """
    exemplars = gather(args.exemplar)
    words = wanted_classes(args.classes, exemplars)
    named = usual_names(args.model) if words is None else tuple(words)
    distractors = read_distractors(args.distractors)
    export = _export(args)
    choice = ModelChoice(
        model=args.model,
        device=args.device,
        text_model=args.text_model,
        text=read_text_options(args.templates, args.descriptions, named),
        words=words,
        exemplars=exemplars,
        tiles=read_tiles(args),
        short_side=args.short_side,
        class_agnostic=args.class_agnostic,
        class_weights=weights_of_names(args.class_weights, (*named, *exemplars)),
    )
    kept = kept_score(args.to)
    model = choice.open(0)
    # Names that are too long and images that cannot be read fail here, before any work.
    vocabulary = model.detector.vocabulary(words, distractors=distractors, exemplars=exemplars or None)
    names = tuple(vocabulary.names)
    if args.margin and vocabulary.built_in and args.class_agnostic is not False:
        raise CoraError(
            "--margin: expected --classes, got the built-in vocabulary, of which an object gets one name; name some"
        )
    if args.score is None:  # until the model is open, nobody knows its threshold
        usual = model.detector.score_of(None, built_in=vocabulary.built_in)
        export = replace(export, thresholds=replace(export.thresholds, usual=usual))
    settings = DetectSettings(
        classes=names,
        keep=export.least_score(names) if args.keep is None else args.keep,
        distractors=distractors,
        batch_size=args.batch_size,
        made_with=choice.made_with(model.detector),
    )
    check_export(settings, export)
    tell_names(
        model.detector, vocabulary, classes=words, score=export.thresholds.usual, class_agnostic=args.class_agnostic
    )
    tell_distractors(model.detector, (*names, *other_prompts(words or {})), distractors)
    errors = error_console()
    with Bars() as bars:
        try:
            found = run_batch(
                args.sources,
                folder=args.to,
                settings=settings,
                open_model=choice.open,
                export=export,
                model=model,
                engine=args.engine,
                processes=args.processes,
                gpus=1.0 if args.device.startswith("cuda") else 0.0,
                watch=_watch(bars),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("while detecting; what is done is kept, the same command goes on") from None
    _print(args, export, found, kept)
    for reason in found.first_unreadable:
        report(errors, reason)
    if found.unreadable:
        of = f"{found.unreadable} of {found.pictures} images"
        report(errors, f"{of} could not be read; {args.to / 'unreadable.csv'} has them all", "warning")
    return 1 if found.unreadable else 0


def _export(args: argparse.Namespace) -> ExportSettings:
    usual = SCORE_THRESHOLD if args.score is None else args.score
    thresholds = Thresholds(usual=usual)
    if args.thresholds is not None:
        thresholds = parse_thresholds(args.thresholds, usual=usual)
    low, high = _between(args.review) if args.review is not None else (None, None)
    review = ReviewSettings(low=low, high=high, margin=args.margin, format=args.review_format, sheet=args.review_sheet)
    if args.review_sheet and not review:
        raise CoraError("--review-sheet: expected a review list to draw, got none; add --review or --margin")
    if args.margin and args.class_agnostic:
        raise CoraError(
            "--margin: expected several classes of one object to compare, got --class-agnostic, which keeps the best "
            "alone; leave out either"
        )
    photos: Photos = args.photos or ("link" if args.output in ("yolo", "voc") else "none")
    return ExportSettings(format=args.output, thresholds=thresholds, photos=photos, review=review)


def _between(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise CoraError(f"--review: expected two scores, LOW,HIGH, with 0 <= LOW < HIGH <= 1, got {text!r}")
    return low, high


def _watch(bars: Bars) -> Watch:
    count = earlier = 0
    done = {"detecting": 0, "writing": 0}

    def begin(pictures: int, before: int) -> None:
        nonlocal count, earlier
        count, earlier = pictures, before
        add("detecting", before)

    def add(title: str, more: int) -> None:
        done[title] += more
        bars.update(title, done[title], count, earlier=earlier if title == "detecting" else 0)

    return Watch(begin=begin, detecting=partial(add, "detecting"), writing=partial(add, "writing"))


def _print(args: argparse.Namespace, export: ExportSettings, found: BatchReport, kept: float | None) -> None:
    console = output_console()

    tell = partial(say, console)
    if kept is not None:
        tell(f"{found.earlier} of {found.pictures} images were done by an earlier run.")
    total = sum(found.boxes.values())
    named = [f"{name} {count}" for name, count in found.boxes.most_common(_SHOWN_CLASSES)]
    more = f", and {len(found.boxes) - _SHOWN_CLASSES} more classes" if len(found.boxes) > _SHOWN_CLASSES else ""
    of = f": {', '.join(named)}{more}" if named else ""
    tell(f"{total} boxes in {found.pictures - found.unreadable} images{of}.")
    if not total and found.pictures > found.unreadable:
        tell(f"No box has a score of {export.thresholds.usual:g} or more; try a lower --score.")
    if export.review:
        tell(f"{found.reviewed} boxes are on the review list.")
    tell(f"Written: {', '.join(map(str, found.written))}.")
    if export.photos == "none":
        tell(f"File names are relative to {found.root}.")
