"""Oracles: detections with one step answered from the ground truth, and all others by the detector.

Each oracle gives COCO results for the same evaluator, so that scores show what each step costs:

- `AS_IT_IS`: the detector itself.
- `TRUE_PRE_MATCHING`: each anchor is pre-matched to the class of the ground-truth box that it overlaps most.
- `TRUE_BOXES`: the ground-truth boxes, classified and scored by the region classifier. The remaining errors are those
  of the classifier.
- `TRUE_CLASSES`: a predicted box with an IoU of 0.5 or more with a ground-truth box has its class with probability 1;
  the others stay as they are. The remaining errors are those of the localizer and of the ranking.
- `BEST_OF_100`, `BEST_OF_300`: for each object the best-fitting of the 100 or 300 boxes with the highest objectness,
  with the class of the object. No classifier can exceed their recall with these boxes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.boxes import clip_to_image, cxcywh_to_xyxy, pairwise_iou, scale_to_pixels
from cora.data.coco import CocoDataset
from cora.detector import Detector, DetectorOutput, PreMatched, combine_scores
from cora.detector.postprocess import suppress
from cora.detector.variants import classes_of_boxes
from cora.errors import DataError
from cora.evaluation.coco_ap import MAX_DETECTIONS
from cora.evaluation.predict import MIN_SCORE, Predictions, Progress
from cora.localizer import Memory
from cora.predictor import Predictor, at_precision
from cora.regions import Prepared, Vocabulary
from cora.structures import Detections, FeatureMap, Targets

AS_IT_IS = "as it is"
TRUE_PRE_MATCHING = "true classes at pre-matching"
TRUE_BOXES = "true boxes, predicted classes"
TRUE_CLASSES = "predicted boxes, true classes"
BEST_OF_100 = "best of 100 boxes an object"
BEST_OF_300 = "best of 300 boxes an object"

ORACLES = (AS_IT_IS, TRUE_PRE_MATCHING, TRUE_BOXES, TRUE_CLASSES, BEST_OF_100, BEST_OF_300)
#: Best-box oracle -> number of boxes of an image that it chooses from.
CEILINGS = {BEST_OF_100: 100, BEST_OF_300: 300}

#: IoU from which a predicted box belongs to an object.
_OBJECT_IOU = 0.5
#: Objectness logit of a ground-truth box; its sigmoid is 1 in every floating type.
_CERTAIN = 100.0


@torch.inference_mode()
def predict_oracles(
    detector: Predictor | Detector,
    dataset: CocoDataset,
    classes: Sequence[str],
    *,
    indices: Sequence[int] | None = None,
    score: float = MIN_SCORE,
    nms_iou: float = 0.5,
    max_detections: int = MAX_DETECTIONS,
    progress: Progress = iter,
) -> dict[str, Predictions]:
    """Results of all `ORACLES` in one pass over the images; those of `AS_IT_IS` equal those of `predict_dataset`.

    Args:
        detector: the model.
        dataset: annotated images.
        classes: names to look for, one for each class of the dataset.
        indices: indices of the images, by default of all.
        score: the lowest score to keep.
        nms_iou: IoU threshold of the suppression; ground-truth boxes are not suppressed.
        max_detections: greatest number of detections of an image; the best-box oracles ignore it, since they give one
            box for each object.
        progress: wraps the indices.

    Raises:
        DataError: the number of names differs from the number of the dataset's classes.
    """
    vocabulary = _vocabulary(detector, dataset, classes, None)

    def answer(image: _EncodedImage) -> dict[str, list[dict[str, Any]]]:
        plain = image.finish(image.matched)
        outputs = {
            AS_IT_IS: plain,
            TRUE_PRE_MATCHING: image.finish(_with_true_classes(image.matched, image.targets)),
            TRUE_CLASSES: _classified_right(image.detector, plain, image.targets),
        }
        if len(image.targets):
            outputs[TRUE_BOXES] = _at_true_boxes(image.detector, image.c3, image.targets, vocabulary)
        found = {
            oracle: image.kept(output, score, 1.0 if oracle == TRUE_BOXES else nms_iou, max_detections)
            for oracle, output in outputs.items()
        }
        for oracle, count in CEILINGS.items():
            boxes, ious = _best_boxes(plain, image.targets, image.size, count)
            found[oracle] = image.results(boxes, ious, image.targets.classes)
        return found

    return _predict(detector, dataset, vocabulary, answer, ORACLES, indices, progress)


@torch.inference_mode()
def predict_with_true_classes(
    detector: Predictor | Detector,
    dataset: CocoDataset,
    classes: Sequence[str],
    *,
    indices: Sequence[int] | None = None,
    score: float = MIN_SCORE,
    nms_iou: float = 0.5,
    max_detections: int = MAX_DETECTIONS,
    class_weights: Mapping[str, float] | None = None,
    progress: Progress = iter,
) -> Predictions:
    """As `predict_dataset`, but each anchor is pre-matched to the class of the ground-truth box that it overlaps most.

    Anchors over no ground-truth box are pre-matched as usual, and the region classifier scores the final boxes as
    usual. So the difference to `predict_dataset` is the cost of wrong classes at pre-matching.

    Raises:
        DataError: the number of names differs from the number of the dataset's classes.
    """
    vocabulary = _vocabulary(detector, dataset, classes, class_weights)

    def answer(image: _EncodedImage) -> dict[str, list[dict[str, Any]]]:
        output = image.finish(_with_true_classes(image.matched, image.targets))
        return {TRUE_PRE_MATCHING: image.kept(output, score, nms_iou, max_detections)}

    oracles = (TRUE_PRE_MATCHING,)
    return _predict(detector, dataset, vocabulary, answer, oracles, indices, progress)[TRUE_PRE_MATCHING]


@dataclass(frozen=True, kw_only=True)
class _EncodedImage:
    """An image of (height, width) `size`, its ground truth, and what the detector computes up to pre-matching."""

    detector: Detector
    vocabulary: Vocabulary
    image_id: int
    size: tuple[int, int]
    targets: Targets
    c3: FeatureMap
    prepared: Prepared
    memory: Memory
    matched: PreMatched

    def finish(self, matched: PreMatched) -> DetectorOutput:
        """The steps of the detector after pre-matching."""
        detector = self.detector
        boxes, objectness = detector.select_top_boxes(detector.decode(self.memory, matched))
        probabilities = detector.classify_best(self.c3, self.prepared, boxes, objectness, self.vocabulary)
        scores = combine_scores(probabilities, objectness, detector.config.postprocess.objectness_power)
        return DetectorOutput(boxes, objectness, probabilities, scores)

    def kept(self, output: DetectorOutput, score: float, nms_iou: float, max_detections: int) -> list[dict[str, Any]]:
        """COCO results of the boxes that remain after suppression."""
        ((boxes, scores, labels),) = suppress(
            output.boxes_cxcywh,
            output.scores,
            [self.size],
            self.detector.config.postprocess,
            score=score,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )
        return self.results(boxes, scores, labels)

    def results(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """COCO results of boxes [K, 4] in pixels, scores [K] and labels [K]."""
        found = Detections(
            boxes_xyxy_px=boxes.cpu(),
            scores=scores.cpu(),
            labels=labels.cpu(),
            class_names=self.vocabulary.names,
            image_size=self.size,
        )
        return found.to_coco(self.image_id)


def _predict(
    given: Predictor | Detector,
    dataset: CocoDataset,
    vocabulary: Vocabulary,
    answer: Callable[[_EncodedImage], dict[str, list[dict[str, Any]]]],
    oracles: Sequence[str],
    indices: Sequence[int] | None,
    progress: Progress,
) -> dict[str, Predictions]:
    """Run the detector up to pre-matching on every image and collect the results of `answer`: oracle -> results."""
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    seconds = 0.0
    chosen = range(len(dataset)) if indices is None else indices
    predictor = Predictor.of(given)
    detector, preprocessor = at_precision(predictor.detector, predictor.precision), predictor.preprocessor
    for index in progress(chosen):
        image, targets, image_id = dataset[index]
        start = time.perf_counter()
        batch = preprocessor([image]).to(detector.device)
        c3, c4 = detector.encode(batch)
        memory, prepared = detector.encode_map(c3), detector.prepare_fast_pooling(c4)
        encoded = _EncodedImage(
            detector=detector,
            vocabulary=vocabulary,
            image_id=image_id,
            size=batch.original_sizes[0],
            targets=targets.to(detector.device),
            c3=c3,
            prepared=prepared,
            memory=memory,
            matched=detector.pre_match(prepared, detector.anchors(memory), vocabulary),
        )
        for oracle, found in answer(encoded).items():
            results[oracle] += found
        seconds += time.perf_counter() - start
    return {oracle: Predictions(results=results[oracle], images=len(chosen), seconds=seconds) for oracle in oracles}


def _vocabulary(
    detector: Predictor | Detector,
    dataset: CocoDataset,
    classes: Sequence[str],
    class_weights: Mapping[str, float] | None,
) -> Vocabulary:
    if len(classes) != len(dataset.class_names):
        raise DataError(
            f"true classes: expected a name for each of the dataset's {len(dataset.class_names)} classes, "
            f"got {len(classes)}"
        )
    return detector.vocabulary_encoder.encode(classes).weighted(class_weights).to(detector.device)


def _with_true_classes(matched: PreMatched, targets: Targets) -> PreMatched:
    return replace(matched, classes=classes_of_boxes(matched.anchors_cxcywh, [targets], matched.classes))


def _classified_right(detector: Detector, output: DetectorOutput, targets: Targets) -> DetectorOutput:
    """The same boxes, those that belong to an object with its class."""
    if not len(targets):
        return output
    overlap = pairwise_iou(cxcywh_to_xyxy(output.boxes_cxcywh[0]), cxcywh_to_xyxy(targets.boxes_cxcywh))
    best = overlap.max(dim=1)
    right = F.one_hot(targets.classes[best.indices], output.probabilities.shape[-1]).to(output.probabilities)
    on_object = (best.values >= _OBJECT_IOU)[None, :, None]
    probabilities = torch.where(on_object, right[None], output.probabilities)
    scores = combine_scores(probabilities, output.objectness, detector.config.postprocess.objectness_power)
    return replace(output, probabilities=probabilities, scores=scores)


def _at_true_boxes(detector: Detector, c3: FeatureMap, targets: Targets, vocabulary: Vocabulary) -> DetectorOutput:
    boxes = targets.boxes_cxcywh[None]
    probabilities = detector.classify(c3, boxes, vocabulary)
    objectness = torch.full_like(boxes[..., 0], _CERTAIN)
    return DetectorOutput(boxes, objectness, probabilities, combine_scores(probabilities, objectness))


def _best_boxes(output: DetectorOutput, targets: Targets, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """For each object the box with the highest IoU, [T, 4] corners in pixels, and this IoU [T].

    Only the `count` boxes with the highest objectness take part.
    """
    order = output.objectness[0].argsort(descending=True)[:count]
    boxes = clip_to_image(scale_to_pixels(output.boxes_cxcywh[0, order], size), size)
    best = pairwise_iou(scale_to_pixels(targets.boxes_cxcywh, size), boxes).max(dim=1)
    return boxes[best.indices], best.values
