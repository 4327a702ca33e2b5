"""Compares an exported detector with the original on the same images, since exporters may miscompile silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cora.boxes import xyxy_to_cxcywh
from cora.detector import Detector
from cora.detector.postprocess import select_detections
from cora.export.manifest import Manifest
from cora.export.runtime import ExportedDetector
from cora.images import Preprocessor, read_image
from cora.regions import Vocabulary
from cora.structures import ImageBatch

#: Largest difference of a box, as a share of the image, and of a score, as a share of the image's highest.
BOX_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-3

#: Largest sides of images that are compared in one batch, where sizes are open: a runtime may store the attention
#: weights of every pair of cells, which at 800 x 1333 pixels are gigabytes for each image.
_SHORT_SIDE, _LONG_SIDE = 480, 800

#: Share of boxes that may be off: where two candidates tie, rounding decides which one is kept.
_MAY_DIFFER = 0.01


@dataclass(frozen=True)
class Difference:
    """How far an exported detector is from the original.

    Attributes:
        boxes: largest difference of a box within the tolerances, as a share of the image's sides.
        scores: largest difference of the scores of such a box, as a share of the highest score of its image.
        off: number of boxes beyond the tolerances, or without a counterpart.
        compared: number of boxes compared.
    """

    boxes: float
    scores: float
    off: int
    compared: int

    @property
    def passes(self) -> bool:
        """Whether all boxes but a few ties agree."""
        return self.compared > 0 and self.off <= _MAY_DIFFER * self.compared

    def __str__(self) -> str:
        return (
            f"{self.compared} boxes compared, {self.off} off; largest difference of the others: "
            f"{self.boxes:.1e} of the image in boxes, {self.scores:.1e} of the highest in scores"
        )


@torch.inference_mode()
def compare(
    detector: Detector, exported: ExportedDetector, pictures: Sequence[Image.Image], vocabularies: Sequence[Vocabulary]
) -> Difference:
    """Run both detectors on a batch of all images, and on the first image alone, and compare boxes and scores.

    Where sizes are open, the batch is of smaller images than the model's usual size; the first image alone is not.

    Args:
        detector: the original.
        exported: the exported one.
        pictures: RGB images.
        vocabularies: to compare with; the only one, where it is fixed in the graph.
    """
    original = plain_detector(detector, exported.manifest)
    batches = [_batch_preprocessor(exported)(pictures), exported.preprocessor(pictures[:1])]
    parts = [_compare_batch(original, exported, batch, vocabulary) for vocabulary in vocabularies for batch in batches]
    return Difference(
        boxes=max(part.boxes for part in parts),
        scores=max(part.scores for part in parts),
        off=sum(part.off for part in parts),
        compared=sum(part.compared for part in parts),
    )


def _batch_preprocessor(exported: ExportedDetector) -> Preprocessor:
    """Pre-processing for a batch of all images, see `compare`."""
    if exported.manifest.settings.size_hw is not None:
        return exported.preprocessor
    config = exported.preprocessor.config
    short, long = min(config.short_side, _SHORT_SIDE), min(config.long_side, _LONG_SIDE)
    return Preprocessor.from_config(replace(config, short_side=short, long_side=long))


def plain_detector(detector: Detector, manifest: Manifest) -> Detector:
    """The detector with the graph's number of scored boxes, and of boxes that are pooled exactly."""
    everything = manifest.exact_boxes == manifest.boxes
    wanted = replace(
        detector.config.postprocess,
        max_scored_boxes=manifest.boxes,
        exact_boxes=0 if everything else manifest.exact_boxes,
    )
    return detector.with_parts(config=replace(detector.config, postprocess=wanted))


def drawn_pictures() -> list[Image.Image]:
    """Drawn images of three shapes, to compare on if no images are given: noise of two scales and a few discs."""
    random = np.random.default_rng(0)
    pictures = []
    for height, width in ((480, 640), (501, 333), (240, 600)):
        coarse, fine = (
            Image.fromarray(random.integers(0, 256, (height // step, width // step, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for step in (40, 8)
        )
        picture = Image.blend(coarse, fine, 0.3)
        draw = ImageDraw.Draw(picture)
        for x, y, radius, *colour in random.integers(0, 256, (6, 6)).tolist():
            place = (x * width // 256, y * height // 256)
            size = 10 + radius // 4
            draw.ellipse([place[0] - size, place[1] - size, place[0] + size, place[1] + size], fill=tuple(colour))
        pictures.append(picture)
    return [read_image(picture) for picture in pictures]


def _compare_batch(
    original: Detector, exported: ExportedDetector, batch: ImageBatch, vocabulary: Vocabulary
) -> Difference:
    right, found = original(batch, vocabulary), exported(batch, vocabulary)
    if found.labels is None:
        pairs = [
            _differences(*rows)
            for rows in zip(right.boxes_cxcywh, right.scores, found.boxes_cxcywh, found.scores, strict=True)
        ]
    else:
        classes = len(vocabulary)
        config = exported.config.postprocess
        pairs = []
        for boxes, scores, other, other_scores, labels in zip(
            right.boxes_cxcywh, right.scores, found.boxes_cxcywh, found.scores, found.labels, strict=True
        ):
            corners, values, own_labels = select_detections(
                boxes,
                scores,
                (1, 1),
                min_score=config.min_score,
                nms_iou=config.nms_iou,
                max_detections=config.max_detections,
                clip=False,
            )
            there = labels >= 0
            pairs.append(
                _differences(
                    xyxy_to_cxcywh(corners),
                    _by_class(values, own_labels, classes),
                    other[there],
                    _by_class(other_scores[there], labels[there], classes),
                )
            )
    off = sum(int(((box > BOX_TOLERANCE) | (score > SCORE_TOLERANCE)).sum()) + extra for box, score, extra in pairs)
    agreeing = [
        (box[good], score[good])
        for box, score, _ in pairs
        for good in [(box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE)]
        if bool(good.any())
    ]
    return Difference(
        boxes=max((float(box.max()) for box, _ in agreeing), default=0.0),
        scores=max((float(score.max()) for _, score in agreeing), default=0.0),
        off=off,
        compared=sum(len(box) + extra for box, _, extra in pairs),
    )


def _by_class(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Scores [n] and labels [n] to a row of scores for each, [n, classes]."""
    return torch.nn.functional.one_hot(labels, classes) * scores.unsqueeze(1)


def _differences(boxes: Tensor, scores: Tensor, other: Tensor, other_scores: Tensor) -> tuple[Tensor, Tensor, int]:
    """Largest differences of n boxes [n] and of their scores [n] from those of their counterparts.

    The third value is the number of boxes without a counterpart. Since ties may change the order of boxes, the
    counterpart is the one of nearest box and best score.
    """
    extra = abs(len(boxes) - len(other))
    if not len(boxes) or not len(other):
        return boxes.new_zeros(0), boxes.new_zeros(0), extra
    top = scores.max().clamp(min=torch.finfo(scores.dtype).tiny)
    rows, other_rows = (
        torch.cat([some, (values / top).amax(1, keepdim=True)], dim=1)
        for some, values in ((boxes, scores), (other, other_scores))
    )
    nearest = torch.cdist(rows, other_rows, p=float("inf")).argmin(dim=1)
    box = (boxes - other[nearest]).abs().amax(dim=1)
    return box, ((scores - other_scores[nearest]) / top).abs().amax(dim=1), extra
