"""Fits fast alignment, the linear map from fast to exact embeddings, on boxes that the detector predicts.

Images need no annotations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cora.data.order import subsample
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import TrainingError
from cora.predictor import at_precision
from cora.regions import AlignmentFit, FastAlignment, Vocabulary

#: Boxes per image, at most; evenly spaced in the order of objectness.
BOXES_PER_IMAGE = 64
#: Images per refit after training, at most: they take about a minute, and more improve the fit little.
REFIT_IMAGES = 200


@torch.no_grad()
def fit_alignment(
    detector: Detector,
    images: Iterable[Image.Image],
    vocabulary: Vocabulary,
    *,
    on_photo: Callable[[int], None] | None = None,
) -> None:
    """Fit the detector's fast alignment, regularised towards its present one. Nothing else of the detector changes.

    Args:
        detector: changed in place.
        images: similar to those that the model will be used on; some hundreds are enough.
        vocabulary: class names for pre-matching.
        on_photo: called with the number of images done.

    Raises:
        TrainingError: there is no image.
    """
    start = detector.fast_alignment or FastAlignment(embed_dim=detector.config.tower.embed_dim)
    fit, done = AlignmentFit(start), 0
    view = at_precision(detector, detector.precision)
    for done, image in enumerate(images, start=1):
        fit.add(*embed_both_ways(view, image, vocabulary))
        if on_photo is not None:
            on_photo(done)
    if not done:
        raise TrainingError("fast alignment: expected at least one image, got none")
    detector.align_fast_pooling(fit.solve())


def refit_alignment(
    detector: Detector,
    read: Callable[[int], Image.Image],
    count: int,
    vocabulary: Vocabulary,
    *,
    report: Callable[[str, int, int], None] | None = None,
) -> None:
    """Fit the detector's fast alignment again after training; does nothing if it has none.

    Args:
        detector: changed in place.
        read: returns the image with the given index.
        count: number of images; at most `REFIT_IMAGES`, evenly spread, are read.
        vocabulary: class names for pre-matching.
        report: called with (name of the step, images done, number of images).
    """
    if detector.fast_alignment is None:
        return
    indices = subsample(range(count), REFIT_IMAGES)
    on_photo = None if report is None else lambda done: report("alignment", done, len(indices))
    fit_alignment(detector, map(read, indices), vocabulary, on_photo=on_photo)


def alignment_refitter(
    detector: Detector,
    dataset: Dataset[tuple[Image.Image, Any, Any]],
    vocabulary: Vocabulary,
    *,
    report: Callable[[str, int, int], None] | None = None,
) -> Callable[[], None]:
    """Return a function that calls `refit_alignment`, each time starting from the detector's present alignment.

    The result of a call therefore depends on the detector's other weights only: evaluating and saving the same weights
    use the same alignment. A second call with unchanged weights reuses the fit.

    Args:
        detector: changed in place by every call of the returned function.
        dataset: its items start with an image.
        vocabulary: class names for pre-matching.
        report: called with (name of the step, images done, number of images).
    """
    start = copy.deepcopy(detector.fast_alignment)
    count: int = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    fitted: dict[str, FastAlignment | None] = {}

    def refit() -> None:
        detector.align_fast_pooling(copy.deepcopy(start))
        weights = weights_fingerprint(detector)
        if weights in fitted:
            detector.align_fast_pooling(copy.deepcopy(fitted[weights]))
            return
        refit_alignment(detector, lambda index: dataset[index][0], count, vocabulary, report=report)
        fitted.clear()
        fitted[weights] = copy.deepcopy(detector.fast_alignment)

    return refit


@torch.no_grad()
def embed_both_ways(detector: Detector, image: Image.Image, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Embed the detector's boxes in an image by fast and by exact pooling.

    Args:
        detector: in evaluation mode, in its precision for inference.
        image: the image.
        vocabulary: class names for pre-matching.

    Returns:
        Fast embeddings [K, D], not aligned, exact embeddings [K, D], and boxes [K, 4] cxcywh, 0..1.
    """
    c3, c4 = detector.encode(detector.preprocessor([image]).to(detector.device))
    memory, prepared = detector.encode_map(c3), detector.prepare_fast_pooling(c4)
    decoded = detector.decode(memory, detector.pre_match(prepared, detector.anchors(memory), vocabulary))
    boxes, objectness = detector.select_top_boxes(decoded)
    order = objectness[0].argsort(descending=True)
    ranks = torch.linspace(0, len(order) - 1, min(BOXES_PER_IMAGE, len(order)), device=order.device).round().long()
    boxes = boxes[:, order[ranks]]
    return detector.embed_fast(prepared, boxes)[0], detector.embed_exact(c3, boxes)[0], boxes[0]


@torch.no_grad()
def cosine_to_exact(detector: Detector, images: Iterable[Image.Image], vocabulary: Vocabulary) -> float:
    """Mean cosine, -1..1, of fast and exact embeddings of the detector's boxes, with its fast alignment if it has one.

    Raises:
        TrainingError: there is no image.
    """
    cosines = []
    view = at_precision(detector, detector.precision)
    for image in images:
        fast, exact, boxes = embed_both_ways(view, image, vocabulary)
        if detector.fast_alignment is not None:
            fast = detector.fast_alignment(fast, boxes)
        cosines.append((fast * exact).sum(dim=-1))
    if not cosines:
        raise TrainingError("fast alignment: expected at least one image to measure on, got none")
    return float(torch.cat(cosines).mean())
