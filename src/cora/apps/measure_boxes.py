"""`cora evaluate`: box AP of groups of classes, with weights and synonyms if asked, oracles, error shares, a report."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cora.apps import measure_tables as tables
from cora.apps.class_weights import read_class_weights
from cora.apps.hold_out import take_hold_out
from cora.apps.measure import Setting, header, prepare
from cora.apps.measure_report import write_report
from cora.apps.measure_study import read_study
from cora.apps.open_model import is_exported, open_detector
from cora.apps.predict_processes import Helpers, Predictor, Request
from cora.apps.processes import run_together, submit
from cora.apps.scoring_options import read_scoring
from cora.apps.tile_options import read_tiles, set_short_side
from cora.console import output_console, tracked
from cora.errors import DataError
from cora.evaluation.base_novel import GroupScore, group_ratios, group_scores, resampled_ap50
from cora.evaluation.bootstrap import FloatArray
from cora.evaluation.coco_ap import BoxEvaluation, detection_limit, evaluate_boxes
from cora.evaluation.oracles import AS_IT_IS, BEST_OF_100, BEST_OF_300
from cora.evaluation.predict import MIN_SCORE, Predictions
from cora.evaluation.report import Section
from cora.evaluation.results import read_results
from cora.evaluation.synonyms import load_synonyms, rename
from cora.evaluation.tide import error_shares, find_errors
from cora.files import write_json
from cora.predictor import Tiles
from cora.training.engine import Engine, started_by_others

_CEILINGS = {BEST_OF_100: 100, BEST_OF_300: 300}

#: Options that need a model, not only its predictions.
_OF_MODELS = (
    *("rename", "class_weights", "oracles", "templates", "descriptions"),
    *("tiles", "tile_size", "tile_overlap", "short_side", "all_boxes", "class_agnostic"),
)


@dataclass(frozen=True)
class Measured:
    """Detections, scored: predictions is None where they came from a file."""

    evaluation: BoxEvaluation
    resampled: FloatArray
    scores: dict[str, GroupScore]
    predictions: Predictions | None = None


def measure_boxes(args: argparse.Namespace) -> int:
    """Measure a model, or predictions made elsewhere, and print tables; returns exit code 0."""
    if args.slurm is not None:
        return submit(args, lambda: _checked(args), folder=_job_folder(args), restarts=0)
    if args.machines > 1 or started_by_others():
        return run_together(args, lambda: partial(_measure_together, args))
    _measure(args, Helpers(Engine()))
    return 0


def _measure_together(args: argparse.Namespace, engine: Engine) -> None:
    """What every process does that torchrun or Slurm has started; all but the first only predict."""
    helpers = Helpers(engine)
    if not engine.is_main:
        helpers.help()
        return
    _measure(args, helpers)
    helpers.done()


def _checked(args: argparse.Namespace) -> Callable[[Engine], None]:
    """The work of a job, its input read once on this machine, which need not have the job's GPUs."""
    args.command_line = sys.argv[1:]
    _Inputs.read(argparse.Namespace(**vars(args) | {"device": "cpu"}), Helpers(Engine()))
    return partial(_measure_together, args)


def _job_folder(args: argparse.Namespace) -> Path:
    written: Path | None = args.json or args.report
    if written is None:
        raise DataError("expected --json or --report beside --slurm, since a job has no screen; name one")
    return written.with_suffix(".slurm")


@dataclass(frozen=True)
class _Inputs:
    """Everything that a measurement reads; predictor: None where predictions come from a file."""

    setting: Setting
    weights: dict[str, float] | None
    renamed: tuple[list[str], list[str]]
    predictor: Predictor | None
    tiles: Tiles | None
    study: Section | None

    @classmethod
    def read(cls, args: argparse.Namespace, helpers: Helpers) -> _Inputs:
        """All of it, so that a bad argument costs no waiting."""
        take_hold_out(args)
        _check_options(args)
        tiles = read_tiles(args)
        setting = prepare(args)
        weights = read_class_weights(args.class_weights, setting.groups)
        renamed = _renamed(args, setting)
        predictor = None if args.predictions is not None else _predictor(args, setting, helpers)
        study = None if args.study is None else read_study(args.study)
        return cls(setting, weights, renamed, predictor, tiles, study)


def _measure(args: argparse.Namespace, helpers: Helpers) -> None:
    inputs = _Inputs.read(args, helpers)
    setting, weights, predictor = inputs.setting, inputs.weights, inputs.predictor
    out = output_console()
    if predictor is None:
        oracles, foreign = _from_file(args, setting)
    else:
        request = Request(classes=setting.class_names, oracles=args.oracles)
        oracles, foreign = _measure_all(predictor, request, setting, "plain names"), {}
    plain = oracles[AS_IT_IS]
    out.print(tables.box_table(_title(args, plain, setting), plain.scores))
    report: dict[str, Any] = {
        **header(args, setting, None if predictor is None else predictor.detector),
        **foreign,
        "class_weights": weights,
        "score": predictor.score if predictor is not None else args.score,
        "max_detections": detection_limit(setting.truth),
        "class_agnostic": args.class_agnostic,
        "tiles": None if inputs.tiles is None else asdict(inputs.tiles),
        "short_side": args.short_side,
        "scoring": asdict(read_scoring(args)),
        "seconds_per_image": _seconds(args, plain),
        **_numbers(plain),
    }
    weighted = None
    if predictor is not None and weights:
        request = Request(classes=setting.class_names, class_weights=weights)
        weighted = _measure_all(predictor, request, setting, "with class weights")[AS_IT_IS]
        title = f"with a weight in pre-matching for {len(weights)} classes"
        out.print(tables.box_table(title, weighted.scores))
        report["weighted"] = _numbers(weighted)
    if predictor is not None and args.rename:
        report["synonyms"] = _synonyms(args, setting, predictor, plain, *inputs.renamed)
    errors = find_errors(plain.evaluation.matched) if args.tide or args.oracles or args.report is not None else None
    shares = None if errors is None else error_shares(errors, setting.class_names, setting.groups)
    by_oracle = {name: measured.scores for name, measured in oracles.items()}
    if args.oracles:
        out.print(tables.gain_table(by_oracle, shares))
        out.print(tables.ceiling_table(by_oracle, _CEILINGS))
        report["oracles"] = {
            name: {group: score.as_dict() for group, score in scores.items()} for name, scores in by_oracle.items()
        }
    if shares is not None:
        if args.tide or args.oracles:
            out.print(tables.error_table(shares))
        report["errors"] = {group: share.as_dict() for group, share in shares.items()}
    if args.json is not None:
        write_json(args.json, report)
    if args.report is not None and errors is not None and shares is not None:
        path = write_report(
            args.report,
            setting=setting,
            facts=report,
            evaluation=plain.evaluation,
            scores=plain.scores,
            weighted=None if weighted is None else weighted.scores,
            oracles=by_oracle if args.oracles else {},
            errors=errors,
            shares=shares,
            study=inputs.study,
        )
        out.print(f"report: {path}", soft_wrap=True, highlight=False)


def _check_options(args: argparse.Namespace) -> None:
    if args.study is not None and args.report is None:
        raise DataError("expected --report beside --study, which goes into the report; name a folder for it")
    if args.predictions is None:
        if args.images is None:
            raise DataError("expected a folder of images to measure a model on, got none; name it with --images")
        if args.oracles and is_exported(str(args.model)):
            raise DataError(f"expected --oracles with a model by name or a checkpoint, got the exported {args.model}")
        if args.oracles and read_tiles(args) is not None:
            raise DataError("expected --oracles without tiles, which have no true boxes of their own; leave out either")
        if args.oracles and args.class_agnostic:
            raise DataError(
                "expected --oracles without --class-agnostic, since true boxes of different classes may overlap; leave "
                "out either"
            )
        return
    unfit = [f"--{name.replace('_', '-')}" for name in _OF_MODELS if getattr(args, name)]
    if unfit:
        raise DataError(
            f"expected predictions alone, got {', '.join(unfit)}, which need a model; leave out either these or "
            "--predictions"
        )


def _renamed(args: argparse.Namespace, setting: Setting) -> tuple[list[str], list[str]]:
    names = list(setting.class_names)
    return rename(names, load_synonyms(args.rename)) if args.rename else (names, [])


def _predictor(args: argparse.Namespace, setting: Setting, helpers: Helpers) -> Predictor:
    detector = open_detector(str(args.model), args.device)
    set_short_side(detector, args.short_side)
    setting.text.apply(detector.vocabulary_encoder)
    return Predictor(
        model=str(args.model),
        detector=detector,
        text=setting.text,
        dataset=setting.dataset,
        indices=setting.indices,
        score=MIN_SCORE if args.score is None else args.score,
        max_detections=detection_limit(setting.truth),
        batch_size=args.batch_size,
        class_agnostic=args.class_agnostic,
        tiles=read_tiles(args),
        short_side=args.short_side,
        scoring=read_scoring(args),
        processes=args.processes,
        helpers=helpers,
    )


def _measure_all(predictor: Predictor, request: Request, setting: Setting, title: str) -> dict[str, Measured]:
    answers = predictor.predict(request, title, tracked)
    measured = {}
    for name, found in answers.items():
        # The best box of every object is no list of detections that a limit should cut.
        limit = len(setting.truth["annotations"]) + 1 if name in _CEILINGS else None
        measured[name] = _measured(setting, found.results, found, limit)
    return measured


def _measured(
    setting: Setting,
    results: Sequence[Mapping[str, Any]],
    predictions: Predictions | None = None,
    max_detections: int | None = None,
) -> Measured:
    evaluation = evaluate_boxes(setting.truth, results, classes=setting.classes, max_detections=max_detections)
    resampled = resampled_ap50(evaluation, setting.counts)
    return Measured(evaluation, resampled, group_scores(evaluation, resampled, setting.groups), predictions)


def _from_file(args: argparse.Namespace, setting: Setting) -> tuple[dict[str, Measured], dict[str, Any]]:
    given = read_results(args.predictions, setting.whole_truth)
    measured_images = {image["id"] for image in setting.truth["images"]}
    lowest = -math.inf if args.score is None else args.score
    chosen = [r for r in given.results if r["image_id"] in measured_images and r["score"] >= lowest]
    foreign = {
        "predictions": str(args.predictions),
        "predictions_of_other_classes": given.other_classes,
        "predictions_reaching_over_the_border": given.reaching_over,
    }
    return {AS_IT_IS: _measured(setting, chosen)}, foreign


def _synonyms(
    args: argparse.Namespace,
    setting: Setting,
    predictor: Predictor,
    plain: Measured,
    renamed: Sequence[str],
    changed: Sequence[str],
) -> dict[str, Any]:
    """Print what other names for the same classes give; returns it for the report."""
    other = _measure_all(predictor, Request(classes=tuple(renamed)), setting, "synonyms")[AS_IT_IS]
    groups = {group: tuple(n for n in members if n in set(changed)) for group, members in setting.groups.items()}
    plain_scores = group_scores(plain.evaluation, plain.resampled, groups)
    other_scores = group_scores(other.evaluation, other.resampled, groups)
    ratios = group_ratios(plain.evaluation, other.evaluation, plain.resampled, other.resampled, groups)
    output_console().print(tables.synonym_table(plain_scores, other_scores, ratios))
    return {
        "source": str(args.rename),
        "renamed": {name: new for name, new in zip(setting.class_names, renamed, strict=True) if name != new},
        "plain": {group: score.as_dict() for group, score in plain_scores.items()},
        "synonyms": {group: score.as_dict() for group, score in other_scores.items()},
        "ratio": {group: ratio.as_dict() for group, ratio in ratios.items()},
        "classes": [score.as_dict() for score in other.evaluation.scores if score.name in set(changed)],
    }


def _numbers(measured: Measured) -> dict[str, Any]:
    evaluation = measured.evaluation
    return {
        "detections": evaluation.detections,
        "dropped_detections": evaluation.dropped_detections,
        "unknown_detections": evaluation.unknown_detections,
        "groups": {group: score.as_dict() for group, score in measured.scores.items()},
        "classes": [score.as_dict() for score in evaluation.scores],
    }


def _seconds(args: argparse.Namespace, plain: Measured) -> float | None:
    """Seconds an image, None where nothing was predicted or where oracles took their part of them."""
    return None if plain.predictions is None or args.oracles else plain.predictions.seconds_per_image


def _title(args: argparse.Namespace, plain: Measured, setting: Setting) -> str:
    seconds = _seconds(args, plain)
    return f"{len(setting.indices)} images" + ("" if seconds is None else f", {seconds:.2f} s an image")
