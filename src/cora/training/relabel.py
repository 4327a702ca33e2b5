"""CLIP-aligned labelling (CORA, arXiv 2303.13076): give every base box the class that the region classifier predicts.

Annotators and CLIP disagree on some boxes. Anchors at such a box are pre-matched with another class than the
annotated one, so their queries can never match the box. After relabelling, more queries find a match in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cora.data.coco import CocoDataset, targets_of
from cora.data.coco_content import read_json
from cora.detector import Detector
from cora.errors import DataError
from cora.files import write_json, write_picture
from cora.plots import draw_confusion
from cora.regions import Vocabulary
from cora.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often the predicted class is the annotated class.

    Attributes:
        boxes: number of boxes that were classified.
        agreed: number of these whose class did not change.
        by_class: name of the annotated class -> (boxes, agreed).
        confusion: C x C numbers of boxes; rows are annotated, columns predicted classes, in the order of `by_class`.
    """

    boxes: int
    agreed: int
    by_class: dict[str, tuple[int, int]]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def share(self) -> float:
        """Share of boxes whose class did not change, 0..1; 1 without boxes."""
        return self.agreed / self.boxes if self.boxes else 1.0

    @classmethod
    def of(cls, confusion: Tensor, class_names: Sequence[str]) -> Agreement:
        """Make the report from a confusion matrix [C, C] int64; rows are annotated, columns predicted classes."""
        boxes, agreed = confusion.sum(dim=1), confusion.diagonal()
        return cls(
            boxes=int(boxes.sum()),
            agreed=int(agreed.sum()),
            by_class={name: (n, k) for name, n, k in zip(class_names, boxes.tolist(), agreed.tolist(), strict=True)},
            confusion=tuple(tuple(row) for row in confusion.tolist()),
        )


def plot_confusion(agreement: Agreement, path: Path) -> None:
    """Draw the confusion matrix of annotated and predicted classes into a PNG file."""
    title = f"CLIP-aligned labelling: {agreement.share:.1%} of {agreement.boxes} boxes keep their class"
    write_picture(path, draw_confusion(agreement.confusion, tuple(agreement.by_class), title=title))


def relabel(
    *,
    detector: Detector,
    vocabulary: Vocabulary,
    dataset: CocoDataset,
    output: Path,
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
) -> Agreement:
    """Write a COCO file of the dataset in which every box has the class that the region classifier predicts.

    The annotated category is kept as `original_category_id`. Crowd boxes are copied unchanged, and so are boxes of
    other classes if the dataset is a COCO or LVIS file.

    Args:
        detector: its towers, trained prompt and classifier are used, with exact pooling.
        vocabulary: the base classes, in the dataset's order.
        dataset: images and boxes to relabel.
        output: new file, written atomically at the end; not the dataset's own.
        on_progress: called with (images done, number of images).
        engine: of this process, if several processes share the work; the first writes the file.

    Raises:
        DataError: other classes than the dataset's, or the output is the dataset's own file.
    """
    engine = engine or Engine(device=detector.device)
    if vocabulary.names != dataset.class_names:
        raise DataError(
            f"relabelling needs the dataset's classes in its order, got {len(vocabulary)} names for "
            f"{len(dataset.class_names)} classes; encode dataset.class_names"
        )
    if output.resolve() == dataset.annotations.resolve():
        raise DataError(f"{output} is the original annotation file; name another output")
    total = len(dataset.records)
    predicted: dict[int, list[int]] = {}
    for done, index in enumerate(range(engine.rank, total, engine.world), start=1):
        if len(dataset.records[index].classes):
            predicted[index] = _predict(detector, vocabulary, dataset, index)
        if on_progress is not None:
            on_progress(min(done * engine.world, total), total)
    labels = {index: one for share in engine.collect(predicted) for index, one in share.items()}
    agreement: Agreement = engine.broadcast(_write(dataset, labels, output) if engine.is_main else None)
    return agreement


@torch.inference_mode()
def _predict(detector: Detector, vocabulary: Vocabulary, dataset: CocoDataset, index: int) -> list[int]:
    """The predicted class of every box of an image."""
    batch = detector.preprocessor([dataset[index][0]]).to(detector.device)
    c3, _ = detector.encode(batch)
    boxes = targets_of(dataset.records[index]).boxes_cxcywh[None].to(detector.device)
    return detector.classify(c3, boxes, vocabulary)[0].argmax(dim=-1).tolist()


def _write(dataset: CocoDataset, predicted: Mapping[int, Sequence[int]], output: Path) -> Agreement:
    """Write the file; `predicted` maps the index of an image to the classes of its boxes."""
    names = dataset.class_names
    content, indices = _content(dataset), _annotation_indices(dataset)
    category_of = [dataset.category_ids[name] for name in names]
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    for index, labels in predicted.items():
        for position, label in zip(indices[index], labels, strict=True):
            annotation = content["annotations"][position]
            annotation.setdefault("original_category_id", annotation["category_id"])
            annotation["category_id"] = category_of[label]
        confusion.index_put_((dataset.records[index].classes, torch.tensor(labels)), torch.tensor(1), accumulate=True)
    write_json(output, content, indent=None)
    return Agreement.of(confusion, names)


def relabelled(dataset: CocoDataset, path: Path) -> CocoDataset:
    """The dataset with the classes of the file that `relabel` wrote for it."""
    annotations = read_json(path)["annotations"]
    index_of = {dataset.category_ids[name]: index for index, name in enumerate(dataset.class_names)}
    return dataset.with_records(
        replace(record, classes=torch.tensor([index_of[annotations[i]["category_id"]] for i in indices]).long())
        for record, indices in zip(dataset.records, _annotation_indices(dataset), strict=True)
    )


def _content(dataset: CocoDataset) -> dict[str, Any]:
    """COCO content to change and write."""
    if not _is_file(dataset):
        return dataset.to_coco()
    # The original file, so that its other fields are kept.
    content: dict[str, Any] = json.loads(dataset.annotations.read_text(encoding="utf-8"))
    return content


def _annotation_indices(dataset: CocoDataset) -> list[list[int]]:
    """Indices of each record's boxes in the list of annotations of `_content`, crowds left out."""
    if _is_file(dataset):
        return [record.entries.tolist() for record in dataset.records]
    indices, start = [], 0
    for record in dataset.records:
        indices.append(list(range(start, start + len(record.classes))))
        start += len(record.classes) + len(record.crowd_classes)
    return indices


def _is_file(dataset: CocoDataset) -> bool:
    """Whether the dataset was read from one COCO or LVIS file whose ids are numbers; shards are a folder."""
    return dataset.format in ("coco", "lvis") and dataset.annotations.is_file() and not dataset.own_ids
