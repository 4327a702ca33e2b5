"""Detections of a whole COCO-format set, as COCO results, with the time they took."""

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

#: Wraps an iterable of image indices of known length to show progress; the identity shows none.
Progress = Callable[[Sequence[int]], Iterable[int]]

#: Average precision needs the low scores too; both numbers are the published code's.
MIN_SCORE, NMS_IOU = 0.001, 0.5


#: Place among the images, image, its id.
_Waiting = tuple[int, "Image.Image", int]


@dataclass(frozen=True)
class Predictions:
    """COCO results (category id = place in the class list + 1) and the seconds spent inside the detector."""

    results: list[dict[str, Any]]
    images: int
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        """Mean seconds per image, without reading the file."""
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
    """Detect `classes` in the images of `dataset`.

    classes: names to search for, as they are, with prompts, or encoded before; the i-th stands for category id i,
    whatever it is called, so that a renamed list is scored against the same ground truth. indices: which images, all
    by default.
    class_agnostic: suppress between classes, too. class_weights: by these names. batch_size: images in one pass, at
    most; only those that have the same size after resizing are put together, since padding changes what a tower sees
    near the border. tiles: parts of an image that are looked at, too. distractors: other names that compete; none by
    default, since the classes of a benchmark compete with each other alone, and None for the model's own choice.
    Raises: DataError where an image has another size than its annotation says.
    """
    predictor = Predictor.of(detector)
    asked = classes if isinstance(classes, Mapping | Vocabulary) else by_themselves(classes)
    vocabulary = predictor.vocabulary(asked, class_weights=class_weights, distractors=distractors)
    seconds = 0.0
    chosen = range(len(dataset)) if indices is None else indices
    answers: dict[int, list[dict[str, Any]]] = {}
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
            answers[place] = detections.to_coco(image_id)
        return took

    for place, index in enumerate(progress(chosen)):
        image, _, image_id = dataset[index]
        size = None if batch_size == 1 else predictor.preprocessor.resized_size(image.height, image.width)
        group = waiting.setdefault(size, [])
        group.append((place, image, image_id))
        if len(group) == batch_size:
            seconds += predict(waiting.pop(size))
    seconds += sum(predict(group) for group in waiting.values())
    results = [result for place in range(len(chosen)) for result in answers[place]]
    return Predictions(results=results, images=len(chosen), seconds=seconds)


def ground_truth(dataset: CocoDataset, *, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """The dataset's boxes as a COCO dictionary; category id = place in `dataset.class_names` + 1.

    Boxes are those that the dataset kept: clipped to the image, without empty ones, crowd boxes
    marked. Of LVIS the lists of negative and not exhaustive classes come with it.
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
                **(_lists(record) if dataset.format == "lvis" else {}),
            }
            for record in records
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(dataset.class_names, start=1)],
    }


def _lists(record: CocoImage) -> dict[str, list[int]]:
    return {
        "neg_category_ids": [label + 1 for label in record.negative_classes],
        "not_exhaustive_category_ids": [label + 1 for label in record.not_exhaustive_classes],
    }
