"""Comparison of a quantized with the float model: average precision, agreement, time and size.

A model whose own AP50 is small can lose all of it within a point or two, so agreement is measured always: the boxes of
the float model are taken for the truth, and the other model gets an AP50 against them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table

from cora.console import number_table
from cora.detector import Detector
from cora.evaluation.base_novel import resampled_ap50
from cora.evaluation.bootstrap import (
    RESAMPLES,
    Estimate,
    FloatArray,
    estimate_of,
    mean_of_known,
    resample_counts,
    whole_first,
)
from cora.evaluation.coco_ap import BoxEvaluation, detection_limit, evaluate_boxes
from cora.evaluation.predict import MIN_SCORE, Progress
from cora.predictor import Predictor
from cora.regions import by_themselves
from cora.structures import Detections

#: Best boxes of an image that count for agreement. A number of boxes and not a score, since models differ in how
#: high they score.
COMPARED_BOXES = 10


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in the comparison.

    Attributes:
        name: as printed.
        predict: detections of an image, low scores included.
        files: what it is stored in.
    """

    name: str
    predict: Callable[[Image.Image], Detections]
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table.

    Attributes:
        name: of the model.
        megabytes: of its files (10^6 bytes).
        milliseconds: median time of an image, from pixels to boxes, class names encoded before.
        agreement: AP50 in 0..100 against the first model's boxes, 100 for that model itself; None if it found none.
        ap50: group -> AP50 in 0..100 with its 95 % bootstrap interval over images, all None for a group without a
            box; empty without annotations.
        change: the same of AP50 minus the first model's, both on the same resamples.
    """

    name: str
    megabytes: float
    milliseconds: float
    agreement: float | None
    ap50: dict[str, Estimate] = field(default_factory=dict)
    change: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images to measure on.

    Attributes:
        read: index -> the image and its id.
        count: how many.
        classes: names to search for; category id = index + 1.
        truth: annotations as a COCO dictionary, if there are some.
        groups: group -> class names, with annotations.
    """

    read: Callable[[int], tuple[Image.Image, int]]
    count: int
    classes: tuple[str, ...]
    truth: Mapping[str, Any] | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class _Run:
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def contender(name: str, detector: Predictor | Detector, files: Sequence[Path], classes: Sequence[str]) -> Contender:
    """A model with its class names encoded, without distractors."""
    predictor = Predictor.of(detector)
    vocabulary = predictor.vocabulary(by_themselves(classes), distractors=())

    def predict(image: Image.Image) -> Detections:
        return predictor.predict(image, vocabulary, score=MIN_SCORE, distractors=())

    return Contender(name=name, predict=predict, files=tuple(files))


def compare(contenders: Sequence[Contender], pictures: Pictures, *, progress: Progress = iter) -> list[Measured]:
    """Predict all images with all models, alternating, and measure each; agreement is with the first model.

    Raises:
        ImageError: an image cannot be read.
        MissingExtraError: the extra `evaluate` is not installed.
    """
    runs = [_Run() for _ in contenders]
    sizes: dict[int, tuple[int, int]] = {}
    for place in progress(range(pictures.count)):
        image, image_id = pictures.read(place)
        sizes[image_id] = (image.height, image.width)
        for step in range(len(contenders)):
            # Each image starts with the next model, so that none is always the first.
            index = (place + step) % len(contenders)
            predict = contenders[index].predict
            if place == 0:
                predict(image)  # warm-up
            start = time.perf_counter()
            found = predict(image)
            runs[index].seconds.append(time.perf_counter() - start)
            runs[index].results += found.to_coco(image_id)
    reference = _as_truth(runs[0].results, sizes, pictures.classes)
    known = [_ap50(pictures, run.results) for run in runs]
    return [
        Measured(
            name=one.name,
            megabytes=sum(file.stat().st_size for file in one.files) / 1e6,
            milliseconds=1000 * statistics.median(run.seconds),
            agreement=_agreement(reference, run.results, pictures.classes),
            ap50={group: estimate_of(values) for group, values in own.items()},
            change={group: estimate_of(values - known[0][group]) for group, values in own.items()},
        )
        for one, run, own in zip(contenders, runs, known, strict=True)
    ]


def comparison_table(rows: Sequence[Measured], pictures: Pictures) -> Table:
    """A row for every model, the first being the one that speed is compared with."""
    groups = list(rows[0].ap50)
    table = number_table(
        "model",
        "MB",
        "ms an image",
        "speed",
        *(f"AP50 {group}" for group in groups),
        "agreement",
        title=f"{pictures.count} images, {len(pictures.classes)} classes, {torch.get_num_threads()} CPU threads",
    )
    for row in rows:
        table.add_row(
            row.name,
            f"{row.megabytes:.1f}",
            f"{row.milliseconds:.0f}",
            f"{rows[0].milliseconds / row.milliseconds:.2f}x",
            *(row.ap50[group].text(scale=1, form="z.1f", between=" to ") for group in groups),
            "-" if row.agreement is None else f"{row.agreement:.1f}",
        )
    return table


def reasons_to_refuse(plain: Measured, quantized: Measured, *, max_loss: float, min_agreement: float) -> list[str]:
    """Reasons in words why a quantized model exceeds the allowed losses; empty if it does not.

    Args:
        plain: the float model.
        quantized: what it became.
        max_loss: points of AP50 that any group of classes may lose.
        min_agreement: least agreement, 0..100.
    """
    reasons = []
    for group, score in plain.ap50.items():
        before, after = score.value, quantized.ap50[group].value
        if before is not None and after is not None and before - after > max_loss:
            reasons.append(f"AP50 of {group} classes falls from {before:.1f} to {after:.1f}")
    if quantized.agreement is not None and quantized.agreement < min_agreement:
        reasons.append(f"its boxes agree with those of the float model by {quantized.agreement:.1f} of 100")
    return reasons


def _as_truth(
    results: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]], classes: Sequence[str]
) -> dict[str, Any]:
    """The best boxes of every image as annotations."""
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda result: -result["score"]):
        by_image.setdefault(result["image_id"], []).append(result)
    chosen = [result for found in by_image.values() for result in found[:COMPARED_BOXES]]
    return {
        "images": [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in sizes.items()],
        "annotations": [
            {
                "id": number,
                "image_id": result["image_id"],
                "category_id": result["category_id"],
                "bbox": result["bbox"],
                "area": result["bbox"][2] * result["bbox"][3],
                "iscrowd": 0,
            }
            for number, result in enumerate(chosen, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }


def _agreement(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> float | None:
    scores = _evaluate(truth, results, classes, COMPARED_BOXES).scores
    known = [score.ap50 for score in scores if score.ap50 is not None]
    return 100 * statistics.fmean(known) if known else None


def _ap50(pictures: Pictures, results: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    """Group -> AP50 in percent [1 + R] of the images as they are and of their resamples; NaN without a box."""
    if pictures.truth is None:
        return {}
    evaluation = _evaluate(pictures.truth, results, pictures.classes, detection_limit(pictures.truth))
    counts = resample_counts(evaluation.images, resamples=RESAMPLES)
    values = resampled_ap50(evaluation, whole_first(counts))
    return {
        group: 100 * mean_of_known(values[:, [place for place, name in enumerate(pictures.classes) if name in names]])
        for group, names in pictures.groups.items()
    }


def _evaluate(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], classes: Sequence[str], limit: int
) -> BoxEvaluation:
    ids = {name: number for number, name in enumerate(classes, start=1)}
    return evaluate_boxes(truth, results, classes=ids, max_detections=limit)
