"""Detects classes in all images of a dataset, as COCO results, and makes COCO ground truth of the dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cora.data.coco import CocoDataset, CocoImage
from cora.detector import Detector
from cora.evaluation.coco_ap import MAX_DETECTIONS
from cora.predictor import Predictor, Tiles
from cora.regions import ClassPrompts, Vocabulary, by_themselves

#: Wraps the indices of the images to show progress; `iter` shows none.
Progress = Callable[[Sequence[int]], Iterable[int]]

#: Score threshold and IoU threshold of the suppression, as published; average precision needs low scores, too.
MIN_SCORE, NMS_IOU = 0.001, 0.5

#: An image that waits for its batch: its position among the chosen images, the image, its id.
_Waiting = tuple[int, Image.Image, int]


@dataclass(frozen=True)
class Predictions:
    """Detections of a number of images.

    Attributes:
        results: COCO results; category ids count the classes from 1.
        images: number of images.
        seconds: time spent in the detector.
    """

    results: list[dict[str, Any]]
    images: int
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        """Mean seconds per image, without those for reading its file."""
        return self.seconds / max(1, self.images)


def predict_dataset(
    detector: Predictor | Detector,
    dataset: CocoDataset,
    classes: Sequence[str] | ClassPrompts | Vocabulary,
    *,
    indices: Sequence[int] | None = None,
    score: float = MIN_SCORE,
    nms_iou: float = NMS_IOU,
    max_detections: int = MAX_DETECTIONS,
    class_agnostic: bool = False,
    class_weights: Mapping[str, float] | None = None,
    batch_size: int = 1,
    tiles: Tiles | None = None,
    distractors: Sequence[str] | None = (),
    progress: Progress = iter,
) -> Predictions:
    """Detect `classes` in the images of a dataset.

    Args:
        detector: the model.
        dataset: images; their annotations are not used.
        classes: names, names with prompts, or a vocabulary. The i-th class has category id i, whatever its name, so
            that renamed classes are scored against the same ground truth.
        indices: indices of the images, by default of all.
        score: the lowest score to keep.
        nms_iou: IoU threshold of the suppression.
        max_detections: greatest number of detections of an image.
        class_agnostic: whether boxes of different classes suppress each other, too.
        class_weights: class name -> weight in pre-matching.
        batch_size: greatest number of images in one pass. Only images of the same size after resizing share a pass,
            since padding changes what a tower sees near the border.
        tiles: parts of each image on which the detector runs, too.
        distractors: names that compete with the classes; None for the model's own. By default there are none, since the
            classes of a benchmark compete with each other alone.
        progress: wraps the indices.

    Raises:
        DataError: an image has another size than its annotation says.
    """
    predictor = Predictor.of(detector)
    prompts = classes if isinstance(classes, Mapping | Vocabulary) else by_themselves(classes)
    vocabulary = predictor.vocabulary(prompts, class_weights=class_weights, distractors=distractors)
    seconds = 0.0
    chosen = range(len(dataset)) if indices is None else indices
    results_of: dict[int, list[dict[str, Any]]] = {}
    waiting: dict[tuple[int, int] | None, list[_Waiting]] = {}

    def predict(group: list[_Waiting]) -> float:
        start = time.perf_counter()
        found = predictor.predict(
            [image for _, image, _ in group],
            vocabulary,
            score=score,
            nms_iou=nms_iou,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            batch_size=batch_size,
            tiles=tiles,
        )
        took = time.perf_counter() - start
        for detections, (place, _, image_id) in zip(found, group, strict=True):
            results_of[place] = detections.to_coco(image_id)
        return took

    for place, index in enumerate(progress(chosen)):
        image, _, image_id = dataset[index]
        size = None if batch_size == 1 else predictor.preprocessor.resized_size(image.height, image.width)
        group = waiting.setdefault(size, [])
        group.append((place, image, image_id))
        if len(group) == batch_size:
            seconds += predict(waiting.pop(size))
    seconds += sum(predict(group) for group in waiting.values())
    results = [result for place in range(len(chosen)) for result in results_of[place]]
    return Predictions(results=results, images=len(chosen), seconds=seconds)


def ground_truth(dataset: CocoDataset, *, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """The annotations of a dataset as a COCO dictionary whose category ids count `dataset.class_names` from 1.

    Boxes are clipped to the image, empty ones are left out, and crowd boxes are marked. LVIS keeps its class lists.
    """
    chosen = range(len(dataset)) if indices is None else indices
    records = [dataset.records[index] for index in chosen]
    boxes = [(record.image_id, *box) for record in records for box in record.every_box()]
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": crowd,
        }
        for number, (image_id, (x0, y0, x1, y1), label, crowd) in enumerate(boxes, start=1)
    ]
    return {
        "images": [
            {
                "id": record.image_id,
                "height": record.size[0],
                "width": record.size[1],
                "file_name": record.path.name,
                **(_class_lists(record) if dataset.format == "lvis" else {}),
            }
            for record in records
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(dataset.class_names, start=1)],
    }


def _class_lists(record: CocoImage) -> dict[str, list[int]]:
    return {
        "neg_category_ids": [label + 1 for label in record.negative_classes],
        "not_exhaustive_category_ids": [label + 1 for label in record.not_exhaustive_classes],
    }
