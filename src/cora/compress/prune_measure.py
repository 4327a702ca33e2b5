"""Effects of compression: parameters, operations, time, and agreement with the original detector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cora.boxes import pairwise_iou
from cora.detector import Detector
from cora.evaluation.bootstrap import Estimate, estimate, resample_counts
from cora.predictor import Predictor
from cora.regions import Vocabulary
from cora.structures import Detections

#: Detections below this score are noise in any model.
LEAST_SCORE = 0.001
SAME_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, operations and time of a detector.

    Attributes:
        tower: parameters of the image tower with its prompt.
        localizer: parameters of the localizer.
        text: parameters of the text tower, which runs once per vocabulary.
        gmac: multiply-accumulates of an image, in 10^9, text left out; matrix products, convolutions and attention.
        milliseconds: median time of an image, without reading the file and without the text tower.
    """

    tower: int
    localizer: int
    text: int
    gmac: float
    milliseconds: float

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.tower + self.localizer + self.text

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, and the number of all parameters."""
        return {**asdict(self), "parameters": self.parameters}


def costs(
    detectors: Mapping[str, Detector],
    picture: Image.Image,
    vocabularies: Mapping[str, Vocabulary],
    *,
    repeats: int = 5,
) -> dict[str, Cost]:
    """Cost of every detector on an image. Their runs alternate, so that other load slows all of them equally.

    Args:
        detectors: by name.
        picture: decoded image.
        vocabularies: of each detector, on its device.
        repeats: timed runs of each, after one that is not timed.
    """
    times = median_ms(detectors, picture, vocabularies, repeats=repeats)
    return {
        name: Cost(
            tower=_count(detector.image_tower) + _count(detector.prompt) + _count(detector.fast_alignment),
            localizer=_count(detector.localizer),
            text=_count(detector.text_tower),
            gmac=count_gmac(detector, picture, vocabularies[name]),
            milliseconds=times[name],
        )
        for name, detector in detectors.items()
    }


def median_ms(
    detectors: Mapping[str, Detector],
    picture: Image.Image,
    vocabularies: Mapping[str, Vocabulary],
    *,
    repeats: int,
) -> dict[str, float]:
    """Median milliseconds of an image; see `costs`."""
    times: dict[str, list[float]] = {name: [] for name in detectors}
    predictors = {name: Predictor(detector) for name, detector in detectors.items()}
    for turn in range(repeats + 1):
        for name, predictor in predictors.items():
            start = time.perf_counter()
            predictor.predict(picture, vocabularies[name], score=LEAST_SCORE, distractors=())
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(taken) for name, taken in times.items()}


def count_gmac(detector: Detector, picture: Image.Image, vocabulary: Vocabulary) -> float:
    """10^9 multiply-accumulates of the forward pass on an image."""
    batch = detector.preprocessor([picture]).to(detector.device)
    counter = FlopCounterMode(display=False)
    # Not in inference mode, which hides the matrix products of linear layers from the counter.
    with torch.no_grad(), counter:
        detector(batch, vocabulary)
    return counter.get_total_flops() / 2e9


def _count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def detect_all(detector: Detector, pictures: Sequence[Image.Image], vocabulary: Vocabulary) -> list[Detections]:
    """Detections of every image, down to a score of `LEAST_SCORE`."""
    return Predictor(detector).predict(list(pictures), vocabulary, score=LEAST_SCORE, distractors=())


def agreement(reference: Sequence[Detections], other: Sequence[Detections], *, resamples: int = 200) -> Estimate:
    """Agreement of two detectors: 1 means the same boxes and classes, whatever their scores.

    The harmonic mean of two shares, each weighted by scores: of the reference's detections that the other finds too
    (same class, IoU of 0.5 or more, each used once, best first), and of the other's that the reference has.

    Args:
        reference: of the first detector, one entry an image; the other's in the same order.
        other: of the second.
        resamples: of the images, for the interval.
    """
    sums = np.array([_matched_scores(first, second) for first, second in zip(reference, other, strict=True)])
    counts = resample_counts(len(sums), resamples=resamples)
    return estimate(float(_harmonic(sums.sum(axis=0, keepdims=True))[0]), _harmonic(counts @ sums))


def _matched_scores(first: Detections, second: Detections) -> tuple[float, float, float, float]:
    """Sum of the scores of the first with a partner in the second, and of all of the first; the same of the second."""
    same = first.labels[:, None] == second.labels[None]
    overlap = torch.where(same, pairwise_iou(first.boxes_xyxy_px, second.boxes_xyxy_px), 0.0)
    found, used = torch.zeros(len(first)), torch.zeros(len(second))
    for row in range(len(first)):  # best first
        left: Tensor = overlap[row] * (1 - used)
        if len(left) and float(left.max()) >= SAME_IOU:
            found[row] = used[left.argmax()] = 1
    return (
        float((found * first.scores).sum()),
        float(first.scores.sum()),
        float((used * second.scores).sum()),
        float(second.scores.sum()),
    )


def _harmonic(sums: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[R, 4] sums of `_matched_scores` to agreements [R]; two detectors that find nothing agree."""
    found, of_first, used, of_second = sums.T
    both = (of_first == 0) & (of_second == 0)
    recall = np.divide(found, of_first, out=np.zeros_like(found), where=of_first > 0)
    precision = np.divide(used, of_second, out=np.zeros_like(used), where=of_second > 0)
    total = recall + precision
    value = np.divide(2 * recall * precision, total, out=np.zeros_like(total), where=total > 0)
    return np.where(both, 1.0, value)
