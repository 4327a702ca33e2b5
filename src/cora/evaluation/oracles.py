"""Oracles: detections with one perfect step. They use the ground truth for it and the detector for the rest.

Each is a list of COCO results for the same evaluator, made from the public steps of the detector:

- `AS_IT_IS`: the detector itself.
- `TRUE_PRE_MATCHING`: anchors know the class of the true box that they overlap most; the rest is predicted.
- `TRUE_BOXES`: the true boxes, named and scored by the region classifier; what is lost is the classifier's.
- `TRUE_CLASSES`: predicted boxes that overlap a true box by 0.5 or more get its class with probability 1; the others
  stay as they are. What is lost is the localizer's, and the ranking's.
- `BEST_OF_100`, `BEST_OF_300`: for every object the box that fits best among the best 100 or 300 by objectness, with
  its class: the recall that no classifier can exceed with these boxes. Other boxes may still beat the best 100.
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
#: Oracles that answer with the best boxes -> how many of an image.
CEILINGS = {BEST_OF_100: 100, BEST_OF_300: 300}

#: Overlap from which a predicted box is of an object.
_OBJECT_IOU = 0.5
#: Logit whose sigmoid is 1 in every floating type: a true box is an object.
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
    """Results of all `ORACLES` in one pass over the images; `AS_IT_IS` is what `predict_dataset` finds.

    Args:
        detector: the model; it stays as it is.
        dataset: annotated images.
        classes: names to search for, one for each class of the dataset.
        indices: which images, all by default.
        score: lowest score kept.
        nms_iou: per-class suppression; true boxes are not suppressed.
        max_detections: kept in an image, except by the best-box oracles, which give one box for each object.
        progress: wraps the indices.

    Raises:
        DataError: not as many names as the dataset has classes.
    """
    vocabulary = _vocabulary(detector, dataset, classes, None)

    def answer(photo: _Photo) -> dict[str, list[dict[str, Any]]]:
        plain = photo.finish(photo.matched)
        outputs = {
            AS_IT_IS: plain,
            TRUE_PRE_MATCHING: photo.finish(_with_true_classes(photo.matched, photo.targets)),
            TRUE_CLASSES: _named_right(photo.detector, plain, photo.targets),
        }
        if len(photo.targets):
            outputs[TRUE_BOXES] = _at_true_boxes(photo.detector, photo.c3, photo.targets, vocabulary)
        found = {
            oracle: photo.kept(output, score, 1.0 if oracle == TRUE_BOXES else nms_iou, max_detections)
            for oracle, output in outputs.items()
        }
        for oracle, count in CEILINGS.items():
            boxes, shares = _best_boxes(plain, photo.targets, photo.size, count)
            found[oracle] = photo.results(boxes, shares, photo.targets.classes)
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
    """As `predict_dataset`, but anchors know the class of the true box that they overlap most.

    Anchors over no true box are pre-matched as usual, and final boxes are scored by the region classifier as usual:
    the difference to `predict_dataset` is what wrong classes at pre-matching cost.

    Raises:
        DataError: not as many names as the dataset has classes.
    """
    vocabulary = _vocabulary(detector, dataset, classes, class_weights)

    def answer(photo: _Photo) -> dict[str, list[dict[str, Any]]]:
        output = photo.finish(_with_true_classes(photo.matched, photo.targets))
        return {TRUE_PRE_MATCHING: photo.kept(output, score, nms_iou, max_detections)}

    oracles = (TRUE_PRE_MATCHING,)
    return _predict(detector, dataset, vocabulary, answer, oracles, indices, progress)[TRUE_PRE_MATCHING]


@dataclass(frozen=True, kw_only=True)
class _Photo:
    """An image on its way through the detector, up to pre-matching, and its true boxes; size: (height, width)."""

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
        """COCO results of what suppression leaves."""
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
    answer: Callable[[_Photo], dict[str, list[dict[str, Any]]]],
    oracles: Sequence[str],
    indices: Sequence[int] | None,
    progress: Progress,
) -> dict[str, Predictions]:
    """Results of the oracles for every image."""
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
        photo = _Photo(
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
        for oracle, found in answer(photo).items():
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


def _named_right(detector: Detector, output: DetectorOutput, targets: Targets) -> DetectorOutput:
    """The same boxes, those of objects with the class of the object."""
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
    """For every true box the box that fits best, [T, 4] corners in pixels, and their IoU [T]."""
    order = output.objectness[0].argsort(descending=True)[:count]
    boxes = clip_to_image(scale_to_pixels(output.boxes_cxcywh[0, order], size), size)
    best = pairwise_iou(scale_to_pixels(targets.boxes_cxcywh, size), boxes).max(dim=1)
    return boxes[best.indices], best.values
