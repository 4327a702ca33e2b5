"""Region accuracy: how often ground-truth boxes get the right class. It measures classification alone.

Every ground-truth box (crowds excepted) is pooled exactly and compared with all classes. The metrics
are top-1 and top-5, over boxes and as a mean over classes, with and without the region prompt, and for comparison of
crops that are encoded as separate images. The intervals resample images, since boxes of one image are not independent.
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

#: COCO's area limits, px² of the original image: small < 32², medium < 96², large.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}

#: How a box is named: with the region prompt, without it, or cut out as an image of its own.
Way = Literal["prompt", "no prompt", "crops"]


@dataclass(frozen=True)
class RegionRanks:
    """The rank of the true class of every box: 0 is right at first place.

    with_prompt, without_prompt: [M] int64 in 0..C-1; classes: [M] int64 into the class list; areas_px: [M]
    box areas; image_index: [M] int64 in 0..images-1; crops: [M] as the first two, None where they were not asked for.
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
    """Zero the prompt's offset inside the block, leaving the tower's own pool; afterwards it is as before."""
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
    """Rank of `classes` [M] in `scores` [M, C]: [M], 0 the best.

    Equal scores and NaN rank before the true class, so a constant classifier is never right.
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
    """Rank the true class of every ground-truth box of `dataset` among all of `dataset.class_names`.

    crops: also of the boxes as crops of the image, without prompt, which costs one pass of the tower per box.
    """
    vocabulary = detector.vocabulary_encoder.encode(dataset.class_names).to(detector.device)
    chosen = range(len(dataset)) if indices is None else indices
    prompted, plain, cut, classes, areas, image_index = [], [], [], [], [], []
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
            cut.append(ranks(cropping.classify(c3, boxes, vocabulary)[0], labels))
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
        crops=_joined(cut) if crops else None,
    )


def _joined(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts]).astype(np.int64)


@dataclass(frozen=True)
class Accuracy:
    """Shares in 0..1 over `boxes` boxes of `classes` classes: per box, and the mean over classes."""

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
    """Accuracy of the boxes of the `chosen` classes: under "all" sizes, "small", "medium" and "large".

    counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    Raises: ValueError for crops that were not ranked.
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
    """Top-1 and top-5 of each class with the prompt, None where it has no box, and its number of boxes."""
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
    """Share of right boxes (or mean number of a box), and its mean over classes, in every resample: [R] and [R].

    NaN without a box.
    """
    # One table of boxes and one of right boxes per (image, class): a resample is then one matrix product.
    boxes: FloatArray = np.zeros((counts.shape[1], number))
    hits = np.zeros_like(boxes)
    np.add.at(boxes, (images, classes), 1.0)
    np.add.at(hits, (images, classes), right.astype(np.float64))
    boxes, hits = counts @ boxes, counts @ hits
    return divided(hits.sum(axis=1), boxes.sum(axis=1)), mean_of_known(divided(hits, boxes))
