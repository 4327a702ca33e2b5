"""Fit a detector's fast alignment on its own boxes: each is pooled fast and exactly. Images need no labels."""

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

#: Boxes of an image that are pooled both ways, spread evenly from the surest to the least sure.
BOXES_A_PHOTO = 64
#: Images that an alignment is fitted to beside other work, at most: a minute, and more change little.
ALIGNED_PHOTOS = 200


@torch.no_grad()
def fit_alignment(
    detector: Detector,
    pictures: Iterable[Image.Image],
    vocabulary: Vocabulary,
    *,
    on_photo: Callable[[int], None] | None = None,
) -> None:
    """Fit the detector's fast alignment, starting from its present one. Nothing else of the detector changes.

    Args:
        detector: changed in place.
        pictures: images of the kind that the model will see; hundreds are enough.
        vocabulary: names that anchors are pre-matched with.
        on_photo: told how many images are done.

    Raises:
        TrainingError: no image.
    """
    start = detector.fast_alignment or FastAlignment(embed_dim=detector.config.tower.embed_dim)
    fit, done = AlignmentFit(start), 0
    view = at_precision(detector, detector.precision)
    for done, picture in enumerate(pictures, start=1):
        fit.add(*pool_both_ways(view, picture, vocabulary))
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
    """Fit an existing alignment again after training; does nothing for a detector without one.

    Args:
        detector: changed in place.
        read: returns the image of an index.
        count: number of images; at most `ALIGNED_PHOTOS`, evenly spread, are read.
        vocabulary: names that anchors are pre-matched with.
        report: told (step, done, of all).
    """
    if detector.fast_alignment is None:
        return
    places = subsample(range(count), ALIGNED_PHOTOS)
    on_photo = None if report is None else lambda done: report("alignment", done, len(places))
    fit_alignment(detector, map(read, places), vocabulary, on_photo=on_photo)


def refitting(
    detector: Detector,
    dataset: Dataset[tuple[Image.Image, Any, Any]],
    vocabulary: Vocabulary,
    *,
    report: Callable[[str, int, int], None] | None = None,
) -> Callable[[], None]:
    """`refit_alignment` to call several times, each starting from the alignment of now.

    So its result is a function of the detector's weights, and what was measured last is what is saved. The same weights
    are not fitted to twice.

    Args:
        detector: changed in place by every call.
        dataset: of images, the first part of every item.
        vocabulary: names that anchors are pre-matched with.
        report: told (step, done, of all).
    """
    start = copy.deepcopy(detector.fast_alignment)
    count: int = len(dataset)  # type: ignore[arg-type]  # datasets with places have a length
    fitted: dict[str, FastAlignment | None] = {}

    def refit() -> None:
        detector.align_fast_pooling(copy.deepcopy(start))
        weights = weights_fingerprint(detector)
        if weights in fitted:
            detector.align_fast_pooling(copy.deepcopy(fitted[weights]))
            return
        refit_alignment(detector, lambda place: dataset[place][0], count, vocabulary, report=report)
        fitted.clear()
        fitted[weights] = copy.deepcopy(detector.fast_alignment)

    return refit


@torch.no_grad()
def pool_both_ways(detector: Detector, picture: Image.Image, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Embed the detector's boxes in an image by fast and by exact pooling.

    Args:
        detector: in evaluation mode, in the precision that it is to work in.
        picture: the image.
        vocabulary: names that anchors are pre-matched with.
    """
    c3, c4 = detector.encode(detector.preprocessor([picture]).to(detector.device))
    memory, prepared = detector.encode_map(c3), detector.prepare_fast_pooling(c4)
    decoded = detector.decode(memory, detector.pre_match(prepared, detector.anchors(memory), vocabulary))
    boxes, objectness = detector.select_top_boxes(decoded)
    order = objectness[0].argsort(descending=True)
    places = torch.linspace(0, len(order) - 1, min(BOXES_A_PHOTO, len(order)), device=order.device).round().long()
    boxes = boxes[:, order[places]]
    return detector.embed_fast(prepared, boxes)[0], detector.embed_exact(c3, boxes)[0], boxes[0]


@torch.no_grad()
def cosine_to_exact(detector: Detector, pictures: Iterable[Image.Image], vocabulary: Vocabulary) -> float:
    """Mean cosine, -1..1, of fast and exact embeddings; fast ones are aligned if the detector has an alignment.

    Raises:
        TrainingError: no image.
    """
    found = []
    view = at_precision(detector, detector.precision)
    for picture in pictures:
        fast, exact, boxes = pool_both_ways(view, picture, vocabulary)
        if detector.fast_alignment is not None:
            fast = detector.fast_alignment(fast, boxes)
        found.append((fast * exact).sum(dim=-1))
    if not found:
        raise TrainingError("fast alignment: expected at least one image to measure on, got none")
    return float(torch.cat(found).mean())
