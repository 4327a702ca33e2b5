"""AP50 of base and novel classes with resamples, as the tables that compare models on one set need it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups, group_scores, resampled_ap50
from cora.evaluation.bootstrap import IntArray, mean_of_known
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset

GROUPS = ("novel", "base", "all")
#: Detects classes in a dataset, as `predict_dataset` does.
Predict = Callable[..., Any]


def measure(
    detector: Detector,
    val: CocoDataset,
    split: ClassSplit,
    counts: IntArray,
    *,
    groups: Mapping[str, Collection[str]] | None = None,
    predict: Predict = predict_dataset,
) -> dict[str, Any]:
    """AP50 of the groups of a split, the same on every resample of the images, and seconds an image.

    Args:
        detector: to measure.
        val: images with boxes of all classes of the split.
        split: base and novel classes.
        counts: [R, images] how often each resample has each image (`resample_counts`).
        groups: group -> class names of the split; None for novel, base and all.
        predict: gives the detections.

    Returns:
        JSON values: `seconds_a_photo`; `ap50` and `resampled`, group -> AP50 in 0..1 and a list of them.
    """
    groups = groups or class_groups(split.base, split.novel)
    predictions = predict(detector, val, split.all)
    numbers = {name: number for number, name in enumerate(split.all, start=1)}
    evaluation = evaluate_boxes(ground_truth(val), predictions.results, classes=numbers)
    resampled = resampled_ap50(evaluation, counts)
    scores = group_scores(evaluation, resampled, groups)
    columns = {g: [i for i, s in enumerate(evaluation.scores) if s.name in groups[g]] for g in groups}
    return {
        "seconds_a_photo": predictions.seconds_per_image,
        "ap50": {g: scores[g].ap50.value for g in groups},
        "resampled": {g: mean_of_known(resampled[:, columns[g]]).tolist() for g in groups},
    }
