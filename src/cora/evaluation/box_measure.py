"""Scores detections of a set of images: of a model, of its oracles, with other class names, or from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cora.console import tracked
from cora.evaluation.base_novel import GroupScore, group_ratios, group_scores, resampled_ap50
from cora.evaluation.bootstrap import FloatArray
from cora.evaluation.coco_ap import BoxEvaluation, evaluate_boxes
from cora.evaluation.oracles import AS_IT_IS, CEILINGS
from cora.evaluation.predict import Predictions
from cora.evaluation.predict_processes import DatasetPredictor, Request
from cora.evaluation.results import read_results
from cora.evaluation.setting import Setting
from cora.evaluation.tables import synonym_table
from cora.regions import ClassPrompts


@dataclass(frozen=True)
class Measured:
    """Scored detections.

    Attributes:
        evaluation: scores and matches of every class.
        resampled: [R, C] AP50 of every class in every resample.
        scores: group -> mean scores.
        predictions: the detections; None where they came from a file.
    """

    evaluation: BoxEvaluation
    resampled: FloatArray
    scores: dict[str, GroupScore]
    predictions: Predictions | None = None


def measure_all(predictor: DatasetPredictor, request: Request, setting: Setting, title: str) -> dict[str, Measured]:
    """Name of the oracle -> scored detections of a model; `title` is shown with the progress."""
    answers = predictor.predict(request, title, tracked)
    measured = {}
    for name, found in answers.items():
        # The best-box oracles give one box for each object, which no limit may cut.
        limit = len(setting.truth["annotations"]) + 1 if name in CEILINGS else None
        measured[name] = measure_results(setting, found.results, found, limit)
    return measured


def measure_results(
    setting: Setting,
    results: Sequence[Mapping[str, Any]],
    predictions: Predictions | None = None,
    max_detections: int | None = None,
) -> Measured:
    """Score COCO results; of each image only the best `max_detections` count, by default the limit of the benchmark."""
    evaluation = evaluate_boxes(setting.truth, results, classes=setting.classes, max_detections=max_detections)
    resampled = resampled_ap50(evaluation, setting.counts)
    return Measured(evaluation, resampled, group_scores(evaluation, resampled, setting.groups), predictions)


def measure_file(path: Path, setting: Setting, *, score: float | None) -> tuple[Measured, dict[str, Any]]:
    """Score a file of detections.

    Args:
        path: COCO results.
        setting: what is measured on.
        score: the lowest score that counts; None counts all.

    Returns:
        The scored detections, and what a report says about the file.
    """
    given = read_results(path, setting.whole_truth)
    measured_images = {image["id"] for image in setting.truth["images"]}
    lowest = -math.inf if score is None else score
    chosen = [r for r in given.results if r["image_id"] in measured_images and r["score"] >= lowest]
    foreign = {
        "predictions": str(path),
        "predictions_of_other_classes": given.other_classes,
        "predictions_reaching_over_the_border": given.reaching_over,
    }
    return measure_results(setting, chosen), foreign


def measure_synonyms(
    setting: Setting, predictor: DatasetPredictor, plain: Measured, renamed: ClassPrompts, changed: Sequence[str]
) -> tuple[Table, dict[str, Any]]:
    """Measure a model with other names for the same classes.

    Args:
        setting: what is measured on.
        predictor: the model.
        plain: scored detections with the classes' own names.
        renamed: a name for every class, with its prompts.
        changed: names of the classes whose name was changed.

    Returns:
        A table, and the numbers for the report.
    """
    other = measure_all(predictor, Request(classes=renamed), setting, "synonyms")[AS_IT_IS]
    groups = {group: tuple(n for n in members if n in set(changed)) for group, members in setting.groups.items()}
    plain_scores = group_scores(plain.evaluation, plain.resampled, groups)
    other_scores = group_scores(other.evaluation, other.resampled, groups)
    ratios = group_ratios(plain.evaluation, other.evaluation, plain.resampled, other.resampled, groups)
    return synonym_table(plain_scores, other_scores, ratios), {
        "renamed": {
            name: new[0] if len(new) == 1 else list(new)
            for name, new in zip(setting.class_names, renamed.values(), strict=True)
            if new != (name,)
        },
        "plain": {group: score.as_dict() for group, score in plain_scores.items()},
        "synonyms": {group: score.as_dict() for group, score in other_scores.items()},
        "ratio": {group: ratio.as_dict() for group, ratio in ratios.items()},
        "classes": [score.as_dict() for score in other.evaluation.scores if score.name in set(changed)],
    }


def numbers_of(measured: Measured) -> dict[str, Any]:
    """What a report says about scored detections."""
    evaluation = measured.evaluation
    return {
        "detections": evaluation.detections,
        "dropped_detections": evaluation.dropped_detections,
        "unknown_detections": evaluation.unknown_detections,
        "groups": {group: score.as_dict() for group, score in measured.scores.items()},
        "classes": [score.as_dict() for score in evaluation.scores],
    }
