"""Fit of boxes when the class is given: for every ground-truth box the best prediction of its own class.

The verdict (docs/study.md, "How to read it"): if more than 70 % of the boxes are above IoU 0.5, classification limits a
detector; if less than 50 % are, localization does; in between both do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.bootstrap import Estimate, FloatArray, IntArray, estimate_of, whole_first
from cora.evaluation.predict import Progress
from cora.evaluation.region_accuracy import right_shares
from cora.structures import Targets
from cora.study.artefact import TrainedStudy
from cora.study.build import FrozenPart
from cora.study.loss import cell_iou
from cora.study.train import Stretch, cam_tower_of

THRESHOLDS = (0.3, 0.5, 0.7)
#: IoU and shares of boxes that divide the verdicts.
VERDICT_IOU, CLASSIFICATION_ABOVE, LOCALIZATION_BELOW = 0.5, 0.7, 0.5
#: Bins of the histogram over 0..1.
BINS = 20

Limit = Literal["classification", "localization", "both"]


@dataclass(frozen=True, kw_only=True)
class BoxFits:
    """The best IoU of every ground-truth box, crowds excepted.

    Attributes:
        ious: [M] in 0..1.
        classes: [M] int64 into `class_names`.
        image_index: [M] int64 in 0..images-1.
        images: number of images, those without a box included.
        class_names: of the dataset.
    """

    ious: FloatArray
    classes: IntArray
    image_index: IntArray
    images: int
    class_names: tuple[str, ...]

    def of(self, names: Collection[str]) -> BoxFits:
        """The boxes of some classes."""
        chosen = np.isin(self.classes, [i for i, name in enumerate(self.class_names) if name in names])
        return replace(self, ious=self.ious[chosen], classes=self.classes[chosen], image_index=self.image_index[chosen])


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """Summary of a group of boxes.

    Attributes:
        boxes: their number.
        mean_iou: with an interval over images.
        shares: threshold -> share of boxes whose IoU is above it, in 0..1.
        histogram: boxes in `BINS` equal bins over 0..1.
        limit: the verdict; None without boxes.
    """

    boxes: int
    mean_iou: Estimate
    shares: Mapping[float, Estimate]
    histogram: tuple[int, ...]
    limit: Limit | None

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {
            "boxes": self.boxes,
            "mean_iou": self.mean_iou.as_dict(),
            "shares": {str(threshold): share.as_dict() for threshold, share in self.shares.items()},
            "histogram": list(self.histogram),
            "verdict": self.limit,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        share = self.shares[VERDICT_IOU]
        if self.limit is None or share.value is None or share.low is None or share.high is None:
            return "No box to measure, no verdict."
        because = {
            "classification": "more than 70 %: boxes fit once the class is known, so classification is the problem",
            "localization": "less than 50 %: boxes do not fit with the class known, so localization is the problem",
            "both": "between 50 and 70 %: both classification and localization are the problem",
        }[self.limit]
        doubt = "" if verdict(share.low) == verdict(share.high) else " The interval reaches into another verdict."
        return (
            f"With the class given, {100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f}) of "
            f"{self.boxes} boxes have a prediction of IoU above {VERDICT_IOU}, {because}.{doubt}"
        )


def verdict(share: float) -> Limit:
    """What limits a detector, from the share of boxes above IoU 0.5 with the class given, in 0..1."""
    if share > CLASSIFICATION_ABOVE:
        return "classification"
    return "localization" if share < LOCALIZATION_BELOW else "both"


def summarise(fits: BoxFits, counts: IntArray) -> FitSummary:
    """Mean, shares, histogram and verdict of some boxes.

    Args:
        fits: of these boxes.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    """
    share = {threshold: _mean(fits, fits.ious > threshold, counts) for threshold in THRESHOLDS}
    half = share[VERDICT_IOU].value
    return FitSummary(
        boxes=len(fits.ious),
        mean_iou=_mean(fits, fits.ious, counts),
        shares=share,
        histogram=tuple(np.histogram(fits.ious, bins=BINS, range=(0.0, 1.0))[0].tolist()),
        limit=None if half is None else verdict(half),
    )


def by_class(fits: BoxFits) -> dict[str, dict[str, float | int | None]]:
    """Number of boxes, mean IoU and shares of every class of the dataset; None for a class without a box."""
    answer: dict[str, dict[str, float | int | None]] = {}
    for index, name in enumerate(fits.class_names):
        ious = fits.ious[fits.classes == index]
        shares = {
            f"above_{threshold}": float((ious > threshold).mean()) if len(ious) else None for threshold in THRESHOLDS
        }
        answer[name] = {"boxes": len(ious), "mean_iou": float(ious.mean()) if len(ious) else None, **shares}
    return answer


@torch.inference_mode()
def measure_study(
    study: TrainedStudy,
    frozen: FrozenPart,
    dataset: CocoDataset,
    *,
    indices: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = iter,
) -> tuple[BoxFits, BoxFits]:
    """Best IoU of every box among the cells of its own class's channel.

    Args:
        study: trained.
        frozen: its tower.
        dataset: images and boxes; all its classes are the vocabulary, trained on or not.
        indices: which images; all by default.
        device: where to compute.
        progress: wraps the indices.

    Returns:
        Fits of the study, and of a control with a box of one size in every cell, which shows what the number of boxes
        alone achieves.
    """
    frozen.check(study.config.tower.image_size)
    cam_tower = cam_tower_of(frozen, dataset.class_names).to(device)
    model = study.model.to(device).eval()
    stretch = Stretch(size_hw=study.config.tower.image_size)
    prior = model.head.prior_boxes(model.cam_resolution)
    found, control = _Collected(dataset), _Collected(dataset)
    chosen = range(len(dataset)) if indices is None else indices
    for position, index in enumerate(progress(chosen)):
        image, targets, _ = dataset[index]
        if len(targets):
            pixels = frozen.preprocessor.collate([stretch(image, targets)[0]]).pixels.to(device)
            wanted = targets.boxes_cxcywh.to(device)
            classes, of_box = targets.classes.to(device).unique(return_inverse=True)
            boxes = model.of_classes(pixels, cam_tower(pixels), torch.zeros_like(classes), classes)[of_box]
            found.add(position, targets, cell_iou(boxes, wanted).flatten(1).amax(dim=1))
            control.add(position, targets, cell_iou(prior.expand_as(boxes), wanted).flatten(1).amax(dim=1))
    return found.fits(len(chosen)), control.fits(len(chosen))


@torch.inference_mode()
def measure_detector(
    detector: Detector,
    dataset: CocoDataset,
    *,
    indices: Sequence[int] | None = None,
    progress: Progress = iter,
) -> BoxFits:
    """The same for a detector whose pre-matching knows only the true classes of each image.

    The boxes of highest objectness count, as many of an image as the detector returns at most. A class that no anchor
    was matched to has none.

    Args:
        detector: to measure.
        dataset: images and boxes.
        indices: which images; all by default.
        progress: wraps the indices.
    """
    detector.eval()
    vocabulary = detector.vocabulary_encoder.encode(dataset.class_names).to(detector.device)
    found = _Collected(dataset)
    chosen = range(len(dataset)) if indices is None else indices
    for position, index in enumerate(progress(chosen)):
        image, targets, _ = dataset[index]
        if not len(targets):
            continue
        present, labels = targets.classes.unique(return_inverse=True)
        true = replace(
            vocabulary,
            names=tuple(vocabulary.names[i] for i in present.tolist()),
            embeddings=vocabulary.embeddings[present.to(detector.device)],
        )
        c3, c4 = detector.encode(detector.preprocessor([image]).to(detector.device))
        memory = detector.encode_map(c3)
        matched = detector.pre_match(c4, detector.anchors(memory), true)
        decoded = detector.decode(memory, matched)
        kept = decoded.objectness[-1][0].topk(min(detector.config.postprocess.max_detections, matched.classes.shape[1]))
        boxes = cxcywh_to_xyxy(decoded.boxes_cxcywh[-1][0, kept.indices]).clamp(0, 1).cpu()
        of_class = matched.classes[0, kept.indices].cpu()
        ious = pairwise_iou(cxcywh_to_xyxy(targets.boxes_cxcywh), boxes)
        ious = torch.where(labels[:, None] == of_class[None], ious, 0.0)
        found.add(position, targets, ious.amax(dim=1))
    return found.fits(len(chosen))


class _Collected:
    """Best IoUs, image by image."""

    def __init__(self, dataset: CocoDataset) -> None:
        self.class_names = dataset.class_names
        self.ious: list[FloatArray] = [np.empty(0)]
        self.classes: list[IntArray] = [np.empty(0, dtype=np.int64)]
        self.image_index: list[IntArray] = [np.empty(0, dtype=np.int64)]

    def add(self, position: int, targets: Targets, ious: torch.Tensor) -> None:
        self.ious.append(ious.double().cpu().numpy())
        self.classes.append(targets.classes.numpy())
        self.image_index.append(np.full(len(targets), position, dtype=np.int64))

    def fits(self, images: int) -> BoxFits:
        return BoxFits(
            ious=np.concatenate(self.ious),
            classes=np.concatenate(self.classes),
            image_index=np.concatenate(self.image_index),
            images=images,
            class_names=self.class_names,
        )


def _mean(fits: BoxFits, values: np.ndarray, counts: IntArray) -> Estimate:
    """Mean over boxes; the interval resamples images, since boxes in one image are not independent."""
    one_class = np.zeros_like(fits.classes)
    shares, _ = right_shares(values, one_class, fits.image_index, 1, whole_first(counts))
    return estimate_of(shares)
