"""Held-out images that a model is measured on during a training, and before and after it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cora.data.benchmarks import testing_images
from cora.data.class_split import ClassSplit, open_split
from cora.data.coco import CocoDataset
from cora.data.read import read_held_out
from cora.detector import Detector
from cora.errors import MissingExtraError
from cora.evaluation.base_novel import GroupScore, frequency_groups, group_scores, resampled_ap50
from cora.evaluation.best_threshold import LOWEST, BestThreshold, best_of_matches, best_of_results
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import BoxEvaluation, detection_limit, evaluate_boxes
from cora.evaluation.predict import NMS_IOU, ground_truth, predict_dataset
from cora.evaluation.predict import Progress as OverImages
from cora.evaluation.region_accuracy import accuracy, rank_regions
from cora.predictor import scoring_all_boxes

#: Group -> name of its AP in LVIS.
_LVIS_NUMBERS = {"rare": "apr", "common": "apc", "frequent": "apf", "all": "ap"}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Annotated images to measure on.

    Attributes:
        dataset: images with boxes of all classes that are measured.
        groups: group -> class names; every score is given for each group.
        resamples: number of resamples of the images, for the intervals.
        all_boxes: whether every box is pooled exactly, as published.
    """

    dataset: CocoDataset
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resamples: int = 200
    all_boxes: bool = False

    @classmethod
    def read(
        cls,
        images: Path | None,
        annotations: Path | None,
        split: str | None,
        *,
        limit: int | None = None,
        option: str = "val",
    ) -> HeldOut | None:
        """Read the images of the options --val-images, --val-annotations and their split; None without both.

        Args:
            images: folder of the images, or None.
            annotations: their annotations, or None.
            split: file of a class split, or name of a benchmark; None makes all classes one group.
            limit: number of images to use, the first ones; None for all.
            option: start of the names of these options, for messages.

        Raises:
            DataError: only one of images and annotations is given, or a file cannot be used.
        """
        known = None if split is None else open_split(split)
        dataset = read_held_out(images, annotations, None if known is None else known.all, option=option)
        if dataset is None:
            return None
        dataset = testing_images(dataset, known)
        dataset = dataset.with_records(dataset.records[:limit])
        return cls(dataset=dataset, groups=groups_of_split(known, dataset.class_names))

    def ap50(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, float]:
        """AP50 of every group in 0..1, and for LVIS the AP of rare, common, frequent and all classes.

        Groups without a box are left out.
        """
        scores = self.scores(detector, progress=progress)
        found = {f"ap50_{group}": score.ap50.value for group, score in scores.items()}
        if self.dataset.frequencies:
            found |= {name: scores[group].ap for group, name in _LVIS_NUMBERS.items() if group in scores}
        return {name: value for name, value in found.items() if value is not None}

    def scores(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, GroupScore]:
        """Scores of every group; `progress` wraps the indices of the images."""
        return self.of_groups(self.evaluate(detector, progress=progress))

    def evaluate(self, detector: Detector, *, progress: OverImages = iter) -> BoxEvaluation:
        """Detect the classes in all images and match the detections to the ground truth."""
        names = self.dataset.class_names
        if self.all_boxes:
            detector = scoring_all_boxes(detector)
        truth = ground_truth(self.dataset)
        found = predict_dataset(detector, self.dataset, names, max_detections=detection_limit(truth), progress=progress)
        return evaluate_boxes(truth, found.results, classes={name: i for i, name in enumerate(names, start=1)})

    def of_groups(
        self, evaluation: BoxEvaluation, groups: Mapping[str, tuple[str, ...]] | None = None
    ) -> dict[str, GroupScore]:
        """Scores of an evaluation for each of `groups`, by default for the groups that are measured."""
        counts = resample_counts(len(self.dataset), resamples=self.resamples)
        measured = {**self.groups, **frequency_groups(self.dataset.frequencies)} if groups is None else groups
        return group_scores(evaluation, resampled_ap50(evaluation, counts), measured)

    def of_classes(self, evaluation: BoxEvaluation) -> dict[str, GroupScore]:
        """Scores of an evaluation for each class that has boxes."""
        found = self.of_groups(evaluation, {name: (name,) for name in self.dataset.class_names})
        return {name: score for name, score in found.items() if score.ap50.value is not None}

    def best_threshold(
        self,
        detector: Detector,
        *,
        distractors: Sequence[str] = (),
        at_once: int | None = None,
        class_agnostic: bool = False,
        evaluation: BoxEvaluation | None = None,
        progress: OverImages = iter,
    ) -> BestThreshold | None:
        """The score threshold with the greatest F1 at IoU 0.5 over all classes; None where no detection is right.

        Args:
            detector: the detector; its own IoU threshold of the suppression and limit of detections are used.
            distractors: names that compete with the classes.
            at_once: number of classes to detect in one pass over the images; the classes of a pass are drawn at random,
                always the same. None detects all in one pass.
            class_agnostic: whether boxes of different classes of a pass suppress each other, too.
            evaluation: result of `evaluate` for this detector. It is used again where detecting would find the same.
            progress: wraps the indices of the images in every pass.
        """
        config, names, truth = detector.config.postprocess, self.dataset.class_names, ground_truth(self.dataset)
        same_options = not distractors and at_once is None and not class_agnostic and not self.all_boxes
        # `evaluate` keeps lower scores. With a limit on the boxes that are pooled exactly, these depend on the lowest
        # score; without one, a lower score only adds detections.
        limits = (0, NMS_IOU, detection_limit(truth))
        same_limits = (config.exact_boxes, config.nms_iou, config.max_detections) == limits
        if evaluation is not None and same_options and same_limits:
            return best_of_matches(evaluation.matched)
        category_ids = {name: i for i, name in enumerate(names, start=1)}
        shuffled = list(names) if at_once is None else random.Random(0).sample(names, len(names))
        results = []
        for start in range(0, len(shuffled), at_once or len(shuffled)):
            classes = shuffled[start : start + (at_once or len(shuffled))]
            found = predict_dataset(
                detector,
                self.dataset,
                classes,
                score=LOWEST,
                nms_iou=config.nms_iou,
                max_detections=config.max_detections,
                class_agnostic=class_agnostic,
                distractors=distractors,
                progress=progress,
            )
            results += [{**one, "category_id": category_ids[classes[one["category_id"] - 1]]} for one in found.results]
        return best_of_results(truth, results, classes=category_ids)

    def region_accuracy(self, detector: Detector, *, progress: OverImages = iter) -> dict[str, float]:
        """Region accuracy of every group: top-1 share of the ground-truth boxes, and its mean over classes."""
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
    """Raise MissingExtraError at once, not after an hour, if an extra of training, or of measuring, is missing."""
    if find_spec("scipy") is None or find_spec("tensorboard") is None:
        raise MissingExtraError(feature, extra="train")
    if measures and find_spec("hotcoco") is None:
        raise MissingExtraError(f"measuring in {feature}", extra="evaluate")


def groups_of(base: Sequence[str], novel: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The groups to measure: base, novel and all; or all alone where there is no novel class."""
    if not novel:
        return {"all": tuple(base)}
    return {"base": tuple(base), "novel": tuple(novel), "all": (*base, *novel)}


def groups_of_split(split: ClassSplit | None, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The groups to measure of a split; without a split, all of these class names as one group."""
    return groups_of(names, ()) if split is None else groups_of(split.base, split.novel)
