"""What the training commands measure on photos that are not trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.errors import MissingExtraError
from cora.evaluation.base_novel import GroupScore, group_scores, resampled_ap50
from cora.evaluation.best_threshold import LOWEST, BestThreshold, best_of_results
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import BoxEvaluation, evaluate_boxes
from cora.evaluation.predict import Progress as OverImages
from cora.evaluation.predict import ground_truth, predict_dataset
from cora.evaluation.region_accuracy import accuracy, rank_regions


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Annotated photos to measure on.

    Attributes:
        dataset: photos with boxes of all classes that are measured.
        groups: group -> its class names; every number is given for each group.
        resamples: of the photos, for the intervals.
    """

    dataset: CocoDataset
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resamples: int = 200

    def ap50(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, float]:
        """AP50 of every group in 0..1; groups without a box are left out."""
        return {
            f"ap50_{group}": score.ap50.value
            for group, score in self.scores(detector, progress=progress).items()
            if score.ap50.value is not None
        }

    def scores(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, GroupScore]:
        """AP50 with intervals, AP and recall of every group; `progress` wraps the photos."""
        return self.of_groups(self.evaluate(detector, progress=progress))

    def evaluate(self, detector: Detector, *, progress: OverImages = iter) -> BoxEvaluation:
        """Find the classes in all photos and match what is found with the boxes."""
        names = self.dataset.class_names
        found = predict_dataset(detector, self.dataset, names, progress=progress)
        numbers = {name: i for i, name in enumerate(names, start=1)}
        return evaluate_boxes(ground_truth(self.dataset), found.results, classes=numbers)

    def of_groups(
        self, evaluation: BoxEvaluation, groups: Mapping[str, tuple[str, ...]] | None = None
    ) -> dict[str, GroupScore]:
        """Numbers of an evaluation for each group, by default of those that are measured."""
        counts = resample_counts(len(self.dataset), resamples=self.resamples)
        return group_scores(evaluation, resampled_ap50(evaluation, counts), self.groups if groups is None else groups)

    def of_classes(self, evaluation: BoxEvaluation) -> dict[str, GroupScore]:
        """Numbers of an evaluation for each class that has boxes."""
        found = self.of_groups(evaluation, {name: (name,) for name in self.dataset.class_names})
        return {name: score for name, score in found.items() if score.ap50.value is not None}

    def best_threshold(
        self,
        detector: Detector,
        *,
        distractors: Sequence[str] = (),
        at_once: int | None = None,
        progress: OverImages = iter,
    ) -> BestThreshold | None:
        """The score threshold of the greatest F1 at IoU 0.5, classes pooled; None where no detection is right.

        Args:
            detector: its own overlap for suppression and number of detections hold.
            distractors: names that compete with the classes.
            at_once: classes that are looked for at a time, drawn once at random; None for all.
            progress: wraps the photos of every pass.
        """
        config, names = detector.config.postprocess, self.dataset.class_names
        number = {name: i for i, name in enumerate(names, start=1)}
        drawn = list(names) if at_once is None else random.Random(0).sample(names, len(names))
        results = []
        for start in range(0, len(drawn), at_once or len(drawn)):
            asked = drawn[start : start + (at_once or len(drawn))]
            found = predict_dataset(
                detector,
                self.dataset,
                asked,
                score=LOWEST,
                nms_iou=config.nms_iou,
                max_detections=config.max_detections,
                distractors=distractors,
                progress=progress,
            )
            results += [{**one, "category_id": number[asked[one["category_id"] - 1]]} for one in found.results]
        return best_of_results(ground_truth(self.dataset), results, classes=number)

    def region_accuracy(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, float]:
        """Share of ground-truth boxes named right among all classes, and its mean over classes, by group."""
        ranks = rank_regions(detector, self.dataset, progress=progress)
        counts = resample_counts(len(self.dataset), resamples=2)
        answer: dict[str, float] = {}
        for group, names in self.groups.items():
            whole = accuracy(ranks, self.dataset.class_names, names, counts)["all"]
            if whole.top1.value is not None and whole.top1_per_class.value is not None:
                answer[f"accuracy_{group}"] = whole.top1.value
                answer[f"class_accuracy_{group}"] = whole.top1_per_class.value
        return answer


def check_extras(feature: str, *, measures: bool) -> None:
    """Raise MissingExtraError now instead of after an hour: what training, and measuring, will import."""
    if find_spec("scipy") is None or find_spec("tensorboard") is None:
        raise MissingExtraError(feature, extra="train")
    if measures and find_spec("hotcoco") is None:
        raise MissingExtraError(f"measuring in {feature}", extra="evaluate")


def groups_of(base: Sequence[str], novel: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups to measure: base, novel and all, or all alone where nothing is novel."""
    if not novel:
        return {"all": tuple(base)}
    return {"base": tuple(base), "novel": tuple(novel), "all": (*base, *novel)}
