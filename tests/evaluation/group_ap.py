"""AP50 of groups of classes on the first photos of a dataset."""

from __future__ import annotations

from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset


def group_ap50(model: Detector, dataset: CocoDataset, split: ClassSplit, *, photos: int) -> dict[str, float]:
    """AP50 in percent of base, novel and all classes that occur."""
    indices = range(photos)
    found = predict_dataset(model, dataset, dataset.class_names, indices=indices)
    ids = {name: number for number, name in enumerate(dataset.class_names, start=1)}
    evaluation = evaluate_boxes(ground_truth(dataset, indices=indices), found.results, classes=ids)
    scores = {score.name: score.ap50 for score in evaluation.scores}
    means = {}
    for group, names in class_groups(split.base, split.novel).items():
        known = [100 * value for name in names if (value := scores.get(name)) is not None]
        means[group] = sum(known) / len(known)
    return means
