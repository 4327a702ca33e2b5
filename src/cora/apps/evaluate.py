"""`cora evaluate`: box AP of groups of classes, with weights and synonyms if asked, oracles, error shares, a report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.apps import kinds
from cora.apps.argument_types import positive, score
from cora.apps.command import Command
from cora.apps.data_options import ProcessOptions, check_evaluate_extra
from cora.apps.model_options import ScoringOptions, TextOptions, TileOptions, class_agnostic_option, device_option
from cora.apps.options import group, option, switch, values_of
from cora.errors import DataError
from cora.files import write_json

if TYPE_CHECKING:
    from cora.evaluation.box_measure import Measured
    from cora.evaluation.predict_processes import DatasetPredictor, Helpers
    from cora.evaluation.report import Section
    from cora.evaluation.setting import Setting
    from cora.predictor import Predictor, Tiles
    from cora.predictor.adapt import Scoring
    from cora.regions import ClassPrompts
    from cora.regions.sentences import Sentences
    from cora.training.engine import Engine

#: Options that need a model, not only its predictions.
_OF_MODELS = (
    *("model", "rename", "class_weights", "oracles", "templates", "descriptions"),
    *("tiles", "tile_size", "tile_overlap", "short_side", "precision", "all_boxes", "class_agnostic"),
)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of `cora evaluate` and `cora region-accuracy`: what is measured on, and the model."""

    images: Path | None = option(metavar="DIR", help="folder of the images")
    annotations: Path | None = option(help="annotation file: COCO, LVIS, or as for training")
    split: Path | None = option(
        help='JSON with the lists "base" and "novel", or "coco" or "lvis" (default: all classes are one group)'
    )
    model: str | None = option(help="name or path of the model (default: nano)")
    text: TextOptions = group(TextOptions)
    device: str = device_option()
    limit: int | None = option(type=positive, help="only the first N images")
    resamples: int = option(type=positive, default=200, help="bootstrap resamples (default: %(default)s)")
    json: Path | None = option(help="write everything that was measured to this file")

    def read_setting(self, images: Path | None, annotations: Path) -> Setting:
        """What is measured on, of these images.

        Raises:
            DataError: a file cannot be used.
        """
        from cora.evaluation.setting import read_setting

        return read_setting(
            images=images, annotations=annotations, split=self.split, limit=self.limit, resamples=self.resamples
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MeasureOptions):
    """Options of `cora evaluate`."""

    model: str | None = option(help="name or path of the model (default: nano, with --run the model of the run)")
    json: Path | None = option(writes=kinds.EVALUATION, help="write everything that was measured to this file")
    finetuned: Path | None = option(
        "--run",
        metavar="DIR",
        help="instead of --images and --annotations: the images that this run of 'cora finetune' held out, and its "
        "model unless --model names another",
    )
    predictions: Path | None = option(
        help="measure these detections (COCO results JSON, made anywhere) instead of a model; --images may be left out"
    )
    oracles: bool = switch(
        help="also what AP50 would be with one step perfect: true classes, true boxes, best boxes (implies --tide)"
    )
    tide: bool = switch(help="also what each kind of error costs")
    class_agnostic: bool = class_agnostic_option()
    tiling: TileOptions = group(TileOptions)
    scoring: ScoringOptions = group(ScoringOptions)
    report: Path | None = option(
        writes=kinds.REPORT, metavar="DIR", help="write report.html with plots and images there"
    )
    study: Path | None = option(help="report.json of `cora study`, whose verdict and histogram go into the report")
    processes: ProcessOptions = group(ProcessOptions, again="starts anew if it is preempted")
    batch_size: int = option(type=positive, default=1, help="images in one pass (default: %(default)s)")
    rename: str | None = option(
        metavar="FILE",
        help="measure again with other names: JSON of plain name to synonym, or to a list of them that are looked for "
        'together, or "coco" for the shipped list',
    )
    class_weights: str | None = option(
        metavar="WEIGHTS",
        help="measure again with these weights in pre-matching: JSON file of class name to weight, or novel=8 for a "
        "group of the split",
    )
    score: float | None = option(
        type=score, help="lowest score kept (default: 0.001; of predictions from a file all are kept)"
    )


def run(options: EvaluateOptions) -> int:
    """Measure a model, or predictions made elsewhere, and print tables; returns exit code 0."""
    from cora.evaluation.predict_processes import Helpers
    from cora.training.engine import Engine, started_by_others

    command = sys.argv[1:]
    if options.processes.slurm is not None:
        prepare = partial(_checked, options, command)
        return options.processes.submit(prepare, device=options.device, folder=_job_folder(options), restarts=0)
    if options.processes.machines > 1 or started_by_others():
        return options.processes.run(lambda: partial(_measure_together, options, command), device=options.device)
    _measure(options, command, Helpers(Engine()))
    return 0


def _measure_together(options: EvaluateOptions, command: Sequence[str], engine: Engine) -> None:
    """What every process does that torchrun or Slurm has started; all but the first only predict."""
    from cora.evaluation.predict_processes import Helpers

    helpers = Helpers(engine)
    if not engine.is_main:
        helpers.help()
        return
    _measure(options, command, helpers)
    helpers.done()


def _checked(options: EvaluateOptions, command: Sequence[str]) -> Callable[[Engine], None]:
    """The work of a job, its input read once on this machine, which need not have the job's GPUs."""
    _Inputs.read(replace(options, device="cpu"))
    return partial(_measure_together, options, command)


def _job_folder(options: EvaluateOptions) -> Path:
    written = options.json or options.report
    if written is None:
        raise DataError("expected --json or --report beside --slurm, since a job has no screen; name one")
    return written.with_suffix(".slurm")


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Everything that a measurement reads; predictor: None where predictions come from a file."""

    annotations: Path
    model: str
    setting: Setting
    sentences: Sentences
    weights: dict[str, float] | None
    renamed: tuple[ClassPrompts, list[str]]
    predictor: DatasetPredictor | None
    tiles: Tiles | None
    study: Section | None

    @classmethod
    def read(cls, options: EvaluateOptions, helpers: Helpers | None = None) -> _Inputs:
        """All of it, so that a bad argument costs no waiting."""
        from cora.data.class_weights import read_class_weights
        from cora.detector.presets import DEFAULT
        from cora.evaluation.study_section import read_study
        from cora.evaluation.synonyms import read_synonyms, rename
        from cora.predictor.device import pick_device

        images, annotations, model = take_hold_out(options)
        model = model or DEFAULT
        tiles = options.tiling.read()
        _check_options(options, images, model, tiles)
        check_evaluate_extra("cora evaluate")
        pick_device(options.device)  # which fails before any file is read
        setting = options.read_setting(images, annotations)
        sentences, names = options.text.read(setting.class_names), list(setting.class_names)
        weights = read_class_weights(options.class_weights, setting.groups)
        renamed = rename(names, read_synonyms(options.rename)) if options.rename else ({}, [])
        study = None if options.study is None else read_study(options.study)
        predictor = None
        if options.predictions is None:
            predictor = _predictor(options, model, setting, sentences, tiles, helpers)
        return cls(
            annotations=annotations,
            model=model,
            setting=setting,
            sentences=sentences,
            weights=weights,
            renamed=renamed,
            predictor=predictor,
            tiles=tiles,
            study=study,
        )


def take_hold_out(options: EvaluateOptions) -> tuple[Path | None, Path, str | None]:
    """Folder of the images, their annotations, and the model; `--run` stands for all three.

    Raises:
        DataError: it is no fine-tuning run, it held nothing out, or images are named besides; or there is nothing.
    """
    from cora.data.hold_out import read_hold_out
    from cora.training.pipeline import MODEL

    if options.finetuned is None:
        if options.annotations is None:
            raise DataError("the following arguments are required: --annotations, or --run of a fine-tuning")
        return options.images, options.annotations, options.model
    beside = [name for name in ("images", "annotations") if getattr(options, name) is not None]
    if beside:
        raise DataError(f"expected --run alone, which has its own images, got --{beside[0]} beside it; leave one out")
    images, annotations = read_hold_out(options.finetuned)
    own = str(options.finetuned / MODEL) if options.predictions is None else None
    return images, annotations, options.model or own


def _check_options(options: EvaluateOptions, images: Path | None, model: str, tiles: Tiles | None) -> None:
    from cora.apps.open_model import is_exported

    if options.study is not None and options.report is None:
        raise DataError("expected --report beside --study, which goes into the report; name a folder for it")
    if options.predictions is None:
        if images is None:
            raise DataError("expected a folder of images to measure a model on, got none; name it with --images")
        if options.oracles and is_exported(model):
            raise DataError(f"expected --oracles with a model by name or a checkpoint, got the exported {model}")
        if options.oracles and tiles is not None:
            raise DataError("expected --oracles without tiles, which have no true boxes of their own; leave out either")
        if options.oracles and options.class_agnostic:
            raise DataError(
                "expected --oracles without --class-agnostic, since true boxes of different classes may overlap; leave "
                "out either"
            )
        return
    values, defaults = values_of(options), values_of(EvaluateOptions())
    unfit = [f"--{name.replace('_', '-')}" for name in _OF_MODELS if values[name] != defaults[name]]
    if unfit:
        raise DataError(
            f"expected predictions alone, got {', '.join(unfit)}, which need a model; leave out either these or "
            "--predictions"
        )


def _predictor(
    options: EvaluateOptions,
    model: str,
    setting: Setting,
    sentences: Sentences,
    tiles: Tiles | None,
    helpers: Helpers | None,
) -> DatasetPredictor:
    from cora.evaluation.coco_ap import detection_limit
    from cora.evaluation.predict import MIN_SCORE
    from cora.evaluation.predict_processes import DatasetPredictor

    open_model = partial(_opened, model, sentences, options.tiling.short_side, options.scoring.read())
    return DatasetPredictor(
        detector=open_model(options.device),
        open_model=open_model,
        dataset=setting.dataset,
        indices=setting.indices,
        score=MIN_SCORE if options.score is None else options.score,
        max_detections=detection_limit(setting.truth),
        batch_size=options.batch_size,
        class_agnostic=options.class_agnostic,
        tiles=tiles,
        processes=options.processes.processes,
        helpers=helpers,
    )


def _opened(model: str, sentences: Sentences, short_side: int | None, scoring: Scoring, device: str) -> Predictor:
    """The model as it is measured, in any process."""
    from cora.apps.open_model import open_detector
    from cora.predictor.adapt import set_short_side

    detector = open_detector(model, device)
    set_short_side(detector, short_side)
    sentences.apply(detector.vocabulary_encoder)
    return scoring.applied(detector)


def _measure(options: EvaluateOptions, command: Sequence[str], helpers: Helpers) -> None:
    from cora.console import counted, output_console
    from cora.evaluation import tables
    from cora.evaluation.box_measure import measure_all, measure_file, measure_synonyms, numbers_of
    from cora.evaluation.coco_ap import detection_limit
    from cora.evaluation.html_report import write_report
    from cora.evaluation.oracles import AS_IT_IS, CEILINGS
    from cora.evaluation.predict_processes import Request
    from cora.evaluation.setting import header
    from cora.evaluation.tide import error_shares, find_errors

    inputs = _Inputs.read(options, helpers)
    setting, weights, predictor = inputs.setting, inputs.weights, inputs.predictor
    out = output_console()
    oracles: dict[str, Measured]
    foreign: dict[str, Any] = {}
    if options.predictions is not None:
        plain, foreign = measure_file(options.predictions, setting, score=options.score)
        oracles = {AS_IT_IS: plain}
    elif predictor is not None:
        request = Request(classes=setting.class_names, oracles=options.oracles)
        oracles = measure_all(predictor, request, setting, "plain names")
    plain = oracles[AS_IT_IS]
    # With oracles, these take their part of the time.
    timed = None if options.oracles or plain.predictions is None else plain.predictions.seconds_per_image
    pace = "" if timed is None else f", {timed:.2f} s an image"
    out.print(tables.box_table(f"{counted(len(setting.indices), 'image')}{pace}", plain.scores))
    report: dict[str, Any] = {
        **header(
            setting,
            command=command,
            annotations=inputs.annotations,
            model=None if predictor is None else (inputs.model, predictor.detector),
            sentences=inputs.sentences,
        ),
        **foreign,
        "class_weights": weights,
        "score": predictor.score if predictor is not None else options.score,
        "max_detections": detection_limit(setting.truth),
        "class_agnostic": options.class_agnostic,
        "tiles": None if inputs.tiles is None else asdict(inputs.tiles),
        "short_side": options.tiling.short_side,
        "scoring": asdict(options.scoring.read()),
        "seconds_per_image": timed,
        **numbers_of(plain),
    }
    weighted = None
    if predictor is not None and weights:
        request = Request(classes=setting.class_names, class_weights=weights)
        weighted = measure_all(predictor, request, setting, "with class weights")[AS_IT_IS]
        title = f"with a weight in pre-matching for {counted(len(weights), 'class')}"
        out.print(tables.box_table(title, weighted.scores))
        report["weighted"] = numbers_of(weighted)
    if predictor is not None and options.rename:
        table, synonyms = measure_synonyms(setting, predictor, plain, *inputs.renamed)
        out.print(table)
        report["synonyms"] = {"source": options.rename, **synonyms}
    wanted = options.tide or options.oracles or options.report is not None
    errors = find_errors(plain.evaluation.matched) if wanted else None
    shares = None if errors is None else error_shares(errors, setting.class_names, setting.groups)
    by_oracle = {name: measured.scores for name, measured in oracles.items()}
    if options.oracles:
        out.print(tables.gain_table(by_oracle, shares))
        out.print(tables.ceiling_table(by_oracle, CEILINGS))
        report["oracles"] = {
            name: {group: score.as_dict() for group, score in scores.items()} for name, scores in by_oracle.items()
        }
    if shares is not None:
        if options.tide or options.oracles:
            out.print(tables.error_table(shares))
        report["errors"] = {group: share.as_dict() for group, share in shares.items()}
    if options.json is not None:
        write_json(options.json, report)
    if options.report is not None and errors is not None and shares is not None:
        path = write_report(
            options.report,
            setting=setting,
            facts=report,
            evaluation=plain.evaluation,
            scores=plain.scores,
            weighted=None if weighted is None else weighted.scores,
            oracles=by_oracle if options.oracles else {},
            errors=errors,
            shares=shares,
            study=inputs.study,
        )
        out.print(f"report: {path}", soft_wrap=True, highlight=False)


COMMAND = Command(
    name="evaluate",
    options=EvaluateOptions,
    run=run,
    help="box AP of a model on an annotated folder",
    description="Box AP of novel, base and all classes on an annotated folder, with intervals.",
)
