"""Region accuracy: how often the region classifier chooses the right class for ground-truth boxes.

Every ground-truth box (crowds excepted) is pooled exactly and compared with all classes. The metrics are top-1 and
top-5 accuracy, over boxes and as a mean over classes, with and without the region prompt. For comparison, crops can be
encoded as images of their own. The intervals resample images, since boxes of one image are not independent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cora.boxes import box_area
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.detector.variants import CropDetector
from cora.evaluation.bootstrap import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    divided,
    estimate_of,
    mean_of_known,
    whole_first,
)
from cora.evaluation.predict import Progress

#: Size -> area in px² of the original image, from the first limit to below the second, as in COCO.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}

#: How a box is encoded: with the region prompt, without it, or as a crop.
Way = Literal["prompt", "no prompt", "crops"]


@dataclass(frozen=True)
class RegionRanks:
    """The rank of the right class of every box among C classes; 0 is the first.

    Attributes:
        with_prompt: [M] int64 ranks with the region prompt, in 0..C-1.
        without_prompt: [M] int64 ranks without it.
        classes: [M] int64 indices of the right classes.
        areas_px: [M] areas of the boxes in px².
        image_index: [M] int64 image of each box, in 0..images-1.
        images: number of images.
        crops: [M] int64 ranks of crops; None where these were not encoded.
    """

    with_prompt: IntArray
    without_prompt: IntArray
    classes: IntArray
    areas_px: FloatArray
    image_index: IntArray
    images: int
    crops: IntArray | None = None


@contextmanager
def no_prompt(detector: Detector) -> Iterator[None]:
    """Set the region prompt to zero inside the block and restore it afterwards."""
    offset: Tensor = detector.prompt.offset
    kept = offset.detach().clone()
    with torch.no_grad():
        offset.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            offset.copy_(kept)


def ranks(scores: Tensor, classes: Tensor) -> IntArray:
    """Rank of the right classes [M] in scores [M, C]: [M] int64, 0 for the highest score.

    Equal scores and NaN rank before the right class, so that a constant classifier is never right.
    """
    below = (scores < scores.gather(1, classes[:, None])).sum(dim=1)
    return (scores.shape[1] - 1 - below).cpu().numpy().astype(np.int64)


@torch.no_grad()
def rank_regions(
    detector: Detector,
    dataset: CocoDataset,
    *,
    indices: Sequence[int] | None = None,
    crops: bool = False,
    progress: Progress = iter,
) -> RegionRanks:
    """Rank the right class of every ground-truth box among all classes of the dataset.

    Args:
        detector: the detector; its localizer is not used.
        dataset: annotated images.
        indices: indices of the images, by default of all.
        crops: whether to encode crops, too, which takes one pass of the image tower per box.
        progress: wraps the indices.
    """
    vocabulary = detector.vocabulary_encoder.encode(dataset.class_names).to(detector.device)
    chosen = range(len(dataset)) if indices is None else indices
    prompted, plain, cropped, classes, areas, image_index = [], [], [], [], [], []
    cropping = CropDetector.of(detector) if crops else None
    for position, index in enumerate(progress(chosen)):
        record = dataset.records[index]
        if not len(record.classes):
            continue
        image, targets, _ = dataset[index]
        c3, _ = (cropping or detector).encode(detector.preprocessor([image]).to(detector.device))
        boxes, labels = targets.boxes_cxcywh[None].to(detector.device), targets.classes.to(detector.device)
        prompted.append(ranks(detector.classify(c3, boxes, vocabulary)[0], labels))
        with no_prompt(detector):
            plain.append(ranks(detector.classify(c3, boxes, vocabulary)[0], labels))
        if cropping is not None:
            cropped.append(ranks(cropping.classify(c3, boxes, vocabulary)[0], labels))
        classes.append(targets.classes.numpy())
        areas.append(box_area(record.boxes_xyxy_px).double().numpy())
        image_index.append(np.full(len(targets), position))
    return RegionRanks(
        with_prompt=_joined(prompted),
        without_prompt=_joined(plain),
        classes=_joined(classes),
        areas_px=np.concatenate([np.empty(0), *areas]),
        image_index=_joined(image_index),
        images=len(chosen),
        crops=_joined(cropped) if crops else None,
    )


def _joined(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts]).astype(np.int64)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy in 0..1, over boxes and as means over classes, and the numbers of boxes and classes."""

    top1: Estimate
    top5: Estimate
    top1_per_class: Estimate
    top5_per_class: Estimate
    boxes: int
    classes: int

    def as_dict(self) -> dict[str, Any]:
        """The fields under their names, for JSON."""
        return asdict(self)


def accuracy(
    measured: RegionRanks,
    class_names: Sequence[str],
    chosen: Collection[str],
    counts: IntArray,
    *,
    way: Way = "prompt",
) -> dict[str, Accuracy]:
    """Accuracy on the boxes of some classes, under the sizes "all", "small", "medium" and "large".

    Args:
        measured: ranks of all boxes.
        class_names: all classes.
        chosen: names of the classes whose boxes count.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
        way: how boxes are encoded.

    Raises:
        ValueError: crops were not ranked.
    """
    rank = {"prompt": measured.with_prompt, "no prompt": measured.without_prompt, "crops": measured.crops}[way]
    if rank is None:
        raise ValueError("crops: expected ranks of crops, got none; call rank_regions with crops=True")
    wanted = np.isin(measured.classes, [i for i, name in enumerate(class_names) if name in chosen])
    answer = {}
    for size, (low, high) in {"all": (0.0, float("inf")), **SIZES}.items():
        keep = wanted & (measured.areas_px >= low) & (measured.areas_px < high)
        answer[size] = _accuracy(
            rank[keep], measured.classes[keep], measured.image_index[keep], len(class_names), counts
        )
    return answer


def by_class(measured: RegionRanks, class_names: Sequence[str]) -> dict[str, Mapping[str, float | int | None]]:
    """Class name -> top-1 and top-5 accuracy with the region prompt (None without a box), and number of boxes."""
    answer: dict[str, Mapping[str, float | int | None]] = {}
    for index, name in enumerate(class_names):
        rank = measured.with_prompt[measured.classes == index]
        shares = [float((rank < k).mean()) if len(rank) else None for k in (1, 5)]
        answer[name] = {"top1": shares[0], "top5": shares[1], "boxes": len(rank)}
    return answer


def _accuracy(rank: IntArray, classes: IntArray, images: IntArray, number: int, counts: IntArray) -> Accuracy:
    estimates = {}
    for k, name in ((1, "top1"), (5, "top5")):
        per_box, per_class = right_shares(rank < k, classes, images, number, whole_first(counts))
        estimates[name] = estimate_of(per_box)
        estimates[f"{name}_per_class"] = estimate_of(per_class)
    return Accuracy(**estimates, boxes=len(rank), classes=len(np.unique(classes)))


def right_shares(
    right: BoolArray | FloatArray, classes: IntArray, images: IntArray, number: int, counts: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Share of right boxes, and mean of the shares of the classes, in every resample: [R] and [R], NaN without a box.

    Args:
        right: [M] whether a box is right, or any number of each box, whose means are then computed.
        classes: [M] class index of each box.
        images: [M] image index of each box.
        number: number of classes.
        counts: [R, images] multiplicities.
    """
    # With the boxes, and the right ones, counted by image and class, each resample is one matrix product.
    boxes: FloatArray = np.zeros((counts.shape[1], number))
    hits = np.zeros_like(boxes)
    np.add.at(boxes, (images, classes), 1.0)
    np.add.at(hits, (images, classes), right.astype(np.float64))
    boxes, hits = counts @ boxes, counts @ hits
    return divided(hits.sum(axis=1), boxes.sum(axis=1)), mean_of_known(divided(hits, boxes))
