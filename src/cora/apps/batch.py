"""`cora batch`: labels many images, by several processes or machines, and resumes after a stop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cora.apps import kinds
from cora.apps.argument_types import positive, whole
from cora.apps.argument_types import score as score_type
from cora.apps.command import Command
from cora.apps.model_options import (
    NamesOptions,
    TileOptions,
    class_agnostic_option,
    device_option,
    model_option,
    score_option,
    text_model_option,
)
from cora.apps.options import argument, group, option
from cora.errors import CoraError

if TYPE_CHECKING:
    from cora.batch import ExportSettings

_SHEET = 48
_LABELS, _REVIEW, _MACHINES = "labels", "review list", "machines"
Format = Literal["parquet", "coco", "yolo", "voc"]
_FORMATS = get_args(Format)


def _format(text: str) -> str:
    """A format of labels. The error explains --to, since --output names a folder in other commands."""
    if text not in _FORMATS:
        raise argparse.ArgumentTypeError(
            f"expected a format of labels, {', '.join(_FORMATS)}, got {text!r}; the folder is named by --to"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of `cora batch`."""

    sources: Sequence[str] = argument(
        nargs="+",
        metavar="INPUT",
        help="folder (with all below it), image, webdataset shard (.tar), or @FILE with a path a line",
    )
    names: NamesOptions = group(NamesOptions, where="images")
    output: Format = option(
        type=_format,
        metavar=f"{{{','.join(_FORMATS)}}}",
        default="coco",
        help="format of the labels (default: %(default)s)",
    )
    to: Path = option(
        default=Path("cora-batch"),
        writes=kinds.BATCH,
        metavar="DIR",
        help="folder of the results, new or of an earlier run, which goes on (default: %(default)s)",
    )
    photos: Literal["none", "link", "copy"] | None = option(
        help="put the images beside the labels (default: link for yolo and voc, none else)"
    )
    model: str = model_option()
    tiling: TileOptions = group(TileOptions)
    text_model: str | None = text_model_option()
    score: float | None = score_option("of a label", section=_LABELS)
    class_agnostic: bool | None = class_agnostic_option(names_given=False, section=_LABELS)
    thresholds: str | None = option(
        section=_LABELS, metavar="LIST", help='own least scores of some classes: "cat=0.3,dog=0.2", or a file of such'
    )
    keep: float | None = option(
        section=_LABELS,
        type=score_type,
        metavar="SCORE",
        help="least score of a box that is kept, so that thresholds can be lowered to it later without detecting again "
        "(default: what the thresholds and the review list need)",
    )
    review: str | None = option(
        section=_REVIEW, metavar="LOW,HIGH", help="list boxes with a score of LOW or more and below HIGH, labels or not"
    )
    margin: float = option(
        section=_REVIEW,
        type=score_type,
        default=0.0,
        metavar="M",
        help="list labels whose best other class has a score less than M lower",
    )
    review_format: Literal["csv", "json"] = option(
        section=_REVIEW, default="csv", help="of the list (default: %(default)s)"
    )
    review_sheet: int = option(
        section=_REVIEW,
        type=whole,
        nargs="?",
        const=_SHEET,
        default=0,
        help="draw the N most uncertain ones on a contact sheet, review/sheet.jpg (default of N: %(const)s)",
    )
    engine: Literal["local", "ray"] = option(
        section=_MACHINES, default="local", help="this machine, or a Ray cluster (default: %(default)s)"
    )
    processes: int = option(
        section=_MACHINES, type=positive, default=1, help="workers, each with a model (default: %(default)s)"
    )
    batch_size: int = option(
        section=_MACHINES,
        type=positive,
        default=1,
        help="images of one size in one pass, at most (default: %(default)s)",
    )
    device: str = device_option()


def run(options: BatchOptions) -> int:
    """Label the images; everything that can be checked is checked before the first one is read.

    Returns:
        Exit code: 0, or 1 if some images could not be read.

    Raises:
        CoraError: bad input.
    """
    from cora.apps.open_model import open_detector, read_wanted, tell_wanted
    from cora.batch import DetectSettings, Watch, check_export, kept_score, run_batch
    from cora.batch.model import ModelChoice
    from cora.console import Bars, error_console, output_console, report, say

    wanted = read_wanted(options.names, options.model)
    classes, agnostic = wanted.classes, options.class_agnostic
    export = _export(options)
    choice = ModelChoice(
        load=open_detector,
        model=options.model,
        device=options.device,
        text_model=options.text_model,
        text=wanted.sentences,
        words=classes,
        exemplars=wanted.exemplars,
        tiles=options.tiling.read(),
        short_side=options.tiling.short_side,
        class_agnostic=agnostic,
        class_weights=wanted.class_weights,
    )
    kept = kept_score(options.to)
    model = choice.open(0)
    # Names that are too long and images that cannot be read fail here, before any work.
    vocabulary = model.detector.vocabulary(classes, distractors=wanted.distractors, exemplars=wanted.exemplars or None)
    names = tuple(vocabulary.names)
    if options.margin and vocabulary.built_in and agnostic is not False:
        raise CoraError(
            "--margin: expected --classes, got the built-in vocabulary, of which an object gets one name; name some"
        )
    if options.score is None:  # the model's own threshold is known only now
        own = model.detector.score_of(None, built_in=vocabulary.built_in)
        export = replace(export, thresholds=replace(export.thresholds, usual=own))
    settings = DetectSettings(
        classes=names,
        keep=export.lowest_score(names) if options.keep is None else options.keep,
        distractors=wanted.distractors,
        batch_size=options.batch_size,
        made_with=choice.made_with(model.detector),
    )
    check_export(settings, export)
    usual = export.thresholds.usual
    with Bars() as bars:
        watch = Watch.on(bars)

        def begin(images: int, earlier: int) -> None:
            """Announce what is looked for, now that it is certain that there are images."""
            tell_wanted(model.detector, vocabulary, wanted, score=usual, class_agnostic=agnostic)
            watch.begin(images, earlier)

        try:
            found = run_batch(
                options.sources,
                folder=options.to,
                settings=settings,
                open_model=choice.open,
                export=export,
                model=model,
                engine=options.engine,
                processes=options.processes,
                gpus=1.0 if options.device.startswith("cuda") else 0.0,
                watch=replace(watch, begin=begin),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("while detecting; what is done is kept, the same command goes on") from None
    console, errors = output_console(), error_console()
    for line in found.lines(export, resumed=kept is not None):
        say(console, line)
    for reason in found.first_unreadable:
        report(errors, reason)
    if found.unreadable:
        of = f"{found.unreadable} of {found.pictures} images"
        report(errors, f"{of} could not be read; {options.to / 'unreadable.csv'} has them all", "warning")
    return 1 if found.unreadable else 0


def _export(options: BatchOptions) -> ExportSettings:
    """What to write, with the default score threshold where --score gives none.

    Raises:
        CoraError: options of a review list without one, or options that contradict each other.
    """
    from cora.batch import ExportSettings, Photos, ReviewSettings, Thresholds, parse_thresholds
    from cora.batch.settings import parse_review
    from cora.detector.postprocess import SCORE_THRESHOLD

    usual = SCORE_THRESHOLD if options.score is None else options.score
    thresholds = Thresholds(usual=usual)
    if options.thresholds is not None:
        thresholds = parse_thresholds(options.thresholds, usual=usual)
    low, high = parse_review(options.review) if options.review is not None else (None, None)
    review = ReviewSettings(
        low=low, high=high, margin=options.margin, format=options.review_format, sheet=options.review_sheet
    )
    for given, flag in ((options.review_sheet, "--review-sheet"), (options.review_format != "csv", "--review-format")):
        if given and not review:
            raise CoraError(f"{flag}: expected a review list, got none; add --review or --margin")
    if options.margin and options.class_agnostic:
        raise CoraError(
            "--margin: expected several classes of one object to compare, got --class-agnostic, which keeps the best "
            "alone; leave out either"
        )
    photos: Photos = options.photos or ("link" if options.output in ("yolo", "voc") else "none")
    return ExportSettings(format=options.output, thresholds=thresholds, photos=photos, review=review)


COMMAND = Command(
    name="batch",
    options=BatchOptions,
    run=run,
    help="label many images: resumable, by several processes or machines",
    description="Label many images: folders, lists and shards in; Parquet, COCO, YOLO or VOC labels out.",
    epilog="The same command again goes on where a run stopped. "
    "Exit code: 0 done; 1 some images could not be read; 2 bad input.",
)
