"""CLIP-aligned labelling (CORA, arXiv 2303.13076): give every base box the class that the region classifier predicts.

Annotators and CLIP disagree on some boxes; anchors over such boxes are pre-matched to another class than the
box and never match it. With labels that agree with the classifier more anchors take part in training.
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
    """How often the classifier's choice is the annotated class.

    Attributes:
        boxes: boxes relabelled in all.
        agreed: of them, boxes whose class did not change.
        by_class: class name -> (boxes, agreed), by annotated class.
        confusion: C rows of C numbers of boxes, annotated class by chosen class, in the order of `by_class`.
    """

    boxes: int
    agreed: int
    by_class: dict[str, tuple[int, int]]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def share(self) -> float:
        """Agreed boxes in 0..1; 1 if there are none to disagree on."""
        return self.agreed / self.boxes if self.boxes else 1.0

    @classmethod
    def of(cls, confusion: Tensor, class_names: Sequence[str]) -> Agreement:
        """The report of a confusion matrix [C, C] int64."""
        boxes, agreed = confusion.sum(dim=1), confusion.diagonal()
        return cls(
            boxes=int(boxes.sum()),
            agreed=int(agreed.sum()),
            by_class={name: (n, k) for name, n, k in zip(class_names, boxes.tolist(), agreed.tolist(), strict=True)},
            confusion=tuple(tuple(row) for row in confusion.tolist()),
        )


def plot_confusion(agreement: Agreement, path: Path) -> None:
    """Draw which annotated class the classifier takes for which, as a PNG file."""
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
    """Write a COCO file of the dataset with the classifier's choice as category of every box.

    The annotated category stays beside it as `original_category_id`; crowd boxes are copied as they are, and so
    are boxes of other classes where the dataset is a COCO or LVIS file.

    Args:
        detector: towers and trained prompt; exact pooling.
        vocabulary: the base classes, in the dataset's order.
        dataset: of the annotation file.
        output: new file, written at once at the end; must not be the dataset's own.
        on_progress: called with (images done, images in all).
        engine: of this process, when several share the images; the first writes the file.

    Raises:
        DataError: other classes than the dataset's, or the output would replace the original.
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
    chosen: dict[int, list[int]] = {}
    for done, index in enumerate(range(engine.rank, total, engine.world), start=1):
        if len(dataset.records[index].classes):
            chosen[index] = _choose(detector, vocabulary, dataset, index)
        if on_progress is not None:
            on_progress(min(done * engine.world, total), total)
    labels = {index: one for share in engine.collect(chosen) for index, one in share.items()}
    agreement: Agreement = engine.broadcast(_write(dataset, labels, output) if engine.is_main else None)
    return agreement


@torch.inference_mode()
def _choose(detector: Detector, vocabulary: Vocabulary, dataset: CocoDataset, index: int) -> list[int]:
    """The classifier's class of every box of an image."""
    batch = detector.preprocessor([dataset[index][0]]).to(detector.device)
    c3, _ = detector.encode(batch)
    boxes = targets_of(dataset.records[index]).boxes_cxcywh[None].to(detector.device)
    return detector.classify(c3, boxes, vocabulary)[0].argmax(dim=-1).tolist()


def _write(dataset: CocoDataset, chosen: Mapping[int, Sequence[int]], output: Path) -> Agreement:
    """Write the file; chosen: index of an image -> classes of its boxes."""
    names = dataset.class_names
    content, places = _content(dataset), _places(dataset)
    category_of = [dataset.category_ids[name] for name in names]
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    for index, labels in chosen.items():
        for place, label in zip(places[index], labels, strict=True):
            annotation = content["annotations"][place]
            annotation.setdefault("original_category_id", annotation["category_id"])
            annotation["category_id"] = category_of[label]
        confusion.index_put_((dataset.records[index].classes, torch.tensor(labels)), torch.tensor(1), accumulate=True)
    write_json(output, content, indent=None)
    return Agreement.of(confusion, names)


def relabelled(dataset: CocoDataset, path: Path) -> CocoDataset:
    """The same images and boxes, with the classes of the file that `relabel` wrote of them."""
    annotations = read_json(path)["annotations"]
    index_of = {dataset.category_ids[name]: index for index, name in enumerate(dataset.class_names)}
    return dataset.with_records(
        replace(record, classes=torch.tensor([index_of[annotations[p]["category_id"]] for p in mine]).long())
        for record, mine in zip(dataset.records, _places(dataset), strict=True)
    )


def _content(dataset: CocoDataset) -> dict[str, Any]:
    """What the new file starts from."""
    if not _is_file(dataset):
        return dataset.to_coco()
    # The file itself, so that whatever else it says of images and boxes is kept.
    content: dict[str, Any] = json.loads(dataset.annotations.read_text(encoding="utf-8"))
    return content


def _places(dataset: CocoDataset) -> list[list[int]]:
    """Where the boxes of every record stand among the annotations of the new file."""
    if _is_file(dataset):
        return [record.entries.tolist() for record in dataset.records]
    places, start = [], 0
    for record in dataset.records:
        places.append(list(range(start, start + len(record.classes))))
        start += len(record.classes) + len(record.crowd_classes)
    return places


def _is_file(dataset: CocoDataset) -> bool:
    """Whether the dataset is a COCO or LVIS file with ids that are numbers; shards are a folder."""
    return dataset.format in ("coco", "lvis") and dataset.annotations.is_file() and not dataset.own_ids
