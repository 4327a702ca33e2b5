"""`cora evaluate`: box AP by group of classes; on request with class weights, synonyms, oracles, errors, a page."""

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
from cora.apps.data_options import MeasureOptions, ProcessOptions, check_evaluate_extra
from cora.apps.model_options import ScoringOptions, TileOptions, class_agnostic_option
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
    """The work of every process that torchrun or Slurm has started; all but the first only predict."""
    from cora.evaluation.predict_processes import Helpers

    helpers = Helpers(engine)
    if not engine.is_main:
        helpers.help()
        return
    _measure(options, command, helpers)
    helpers.done()


def _checked(options: EvaluateOptions, command: Sequence[str]) -> Callable[[Engine], None]:
    """The work of a job, after its inputs were read here, as a check; this machine need not have the job's GPUs."""
    _Inputs.read(replace(options, device="cpu"))
    return partial(_measure_together, options, command)


def _job_folder(options: EvaluateOptions) -> Path:
    written = options.json or options.report
    if written is None:
        raise DataError("expected --json or --report beside --slurm, since a job has no screen; name one")
    return written.with_suffix(".slurm")


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Everything that a measurement reads; `predictor` is None where predictions come from a file."""

    annotations: Path
    model: str
    setting: Setting
    sentences: Sentences
    weights: dict[str, float] | None
    renamed: tuple[ClassPrompts, list[str]]  # of --rename: all classes with their synonyms, and those that have some
    predictor: DatasetPredictor | None
    tiles: Tiles | None
    study: Section | None

    @classmethod
    def read(cls, options: EvaluateOptions, helpers: Helpers | None = None) -> _Inputs:
        """Read and check everything, the model last, since it takes longest."""
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
        DataError: --run names no run with held-out images, or stands beside its own images; or both are missing.
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
    """Measure with plain names first, then what else was asked for; print tables, and write JSON and a page."""
    from cora.console import counted, output_console
    from cora.evaluation import tables
    from cora.evaluation.box_measure import measure_synonyms, numbers_of
    from cora.evaluation.html_report import write_report
    from cora.evaluation.oracles import AS_IT_IS, CEILINGS
    from cora.evaluation.tide import error_shares, find_errors

    inputs = _Inputs.read(options, helpers)
    setting, predictor = inputs.setting, inputs.predictor
    out = output_console()
    oracles, about_file = _measure_oracles(options, inputs)
    plain = oracles[AS_IT_IS]
    # With oracles, these take their part of the time.
    timed = None if options.oracles or plain.predictions is None else plain.predictions.seconds_per_image
    pace = "" if timed is None else f", {timed:.2f} s an image"
    out.print(tables.box_table(f"{counted(len(setting.indices), 'image')}{pace}", plain.scores))
    report = {**_facts(options, command, inputs, about_file), "seconds_per_image": timed, **numbers_of(plain)}
    weighted = _measure_weighted(inputs)
    if weighted is not None:
        title = f"with a weight in pre-matching for {counted(len(inputs.weights or ()), 'class')}"
        out.print(tables.box_table(title, weighted.scores))
        report["weighted"] = numbers_of(weighted)
    if predictor is not None and options.rename:
        table, synonyms = measure_synonyms(setting, predictor, plain, *inputs.renamed)
        out.print(table)
        report["synonyms"] = {"source": options.rename, **synonyms}
    wanted = options.tide or options.oracles or options.report is not None
    errors = find_errors(plain.evaluation.matched) if wanted else None
    shares = None if errors is None else error_shares(errors, setting.class_names, setting.groups)
    by_oracle = {name: measured.scores for name, measured in oracles.items()} if options.oracles else {}
    if by_oracle:
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
            oracles=by_oracle,
            errors=errors,
            shares=shares,
            study=inputs.study,
        )
        out.print(f"report: {path}", soft_wrap=True, highlight=False)


def _measure_oracles(options: EvaluateOptions, inputs: _Inputs) -> tuple[dict[str, Measured], dict[str, Any]]:
    """The model as it is, and with every oracle if asked for; or a file of predictions, and what it says of itself."""
    from cora.evaluation.box_measure import measure_all, measure_file
    from cora.evaluation.oracles import AS_IT_IS
    from cora.evaluation.predict_processes import Request

    if options.predictions is not None:
        measured, about_file = measure_file(options.predictions, inputs.setting, score=options.score)
        return {AS_IT_IS: measured}, about_file
    assert inputs.predictor is not None
    request = Request(classes=inputs.setting.class_names, oracles=options.oracles)
    return measure_all(inputs.predictor, request, inputs.setting, "plain names"), {}


def _measure_weighted(inputs: _Inputs) -> Measured | None:
    """The model with the class weights; None where there are none."""
    from cora.evaluation.box_measure import measure_all
    from cora.evaluation.oracles import AS_IT_IS
    from cora.evaluation.predict_processes import Request

    if inputs.predictor is None or not inputs.weights:
        return None
    request = Request(classes=inputs.setting.class_names, class_weights=inputs.weights)
    return measure_all(inputs.predictor, request, inputs.setting, "with class weights")[AS_IT_IS]


def _facts(
    options: EvaluateOptions, command: Sequence[str], inputs: _Inputs, about_file: dict[str, Any]
) -> dict[str, Any]:
    """What was measured, and with which settings, for the JSON file."""
    from cora.evaluation.coco_ap import detection_limit
    from cora.evaluation.setting import header

    predictor = inputs.predictor
    return {
        **header(
            inputs.setting,
            command=command,
            annotations=inputs.annotations,
            model=None if predictor is None else (inputs.model, predictor.detector),
            sentences=inputs.sentences,
        ),
        **about_file,
        "class_weights": inputs.weights,
        "score": predictor.score if predictor is not None else options.score,
        "max_detections": detection_limit(inputs.setting.truth),
        "class_agnostic": options.class_agnostic,
        "tiles": None if inputs.tiles is None else asdict(inputs.tiles),
        "short_side": options.tiling.short_side,
        "scoring": asdict(options.scoring.read()),
    }


COMMAND = Command(
    name="evaluate",
    options=EvaluateOptions,
    run=run,
    help="box AP of a model on an annotated folder",
    description="Box AP of novel, base and all classes on an annotated folder, with intervals.",
)
