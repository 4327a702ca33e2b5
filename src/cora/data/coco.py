"""Datasets of images with boxes. Every annotation format is read into a `CocoDataset`.

Boxes and paths are kept in memory. Images stay on disk until an item is asked for.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cora.data.coco_content import read_json
from cora.data.coco_json import read_coco
from cora.data.problems import Findings, Problems, listed
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import SKIP_BAD, DataError
from cora.images import read_image
from cora.names import names_without, repeated_names, spelled_as
from cora.structures import Targets

logger = logging.getLogger(__name__)

#: Boxes with a side below this many pixels, after clipping to the image, count as empty.
MIN_BOX_SIDE_PX = 1e-3


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One image of an annotation file.

    Attributes:
        image_id: id in the annotation file.
        path: path of the image.
        size: (height, width) in pixels, as the annotation file says.
        boxes_xyxy_px: [T, 4] corners, clipped to the image.
        classes: [T] int64 indices into the class names.
        entries: [T] int64 indices of the boxes among all boxes of the source; for a COCO file, in its `annotations`.
        crowd_boxes_xyxy_px: [U, 4] boxes around crowds, or marked as difficult (VOC).
        crowd_classes: [U] int64 indices into the class names.
        negative_classes: indices of classes that were looked for and are absent (LVIS).
        not_exhaustive_classes: indices of classes of which some objects may have no box (LVIS).
        only_pseudo: whether it has boxes, and all are pseudo labels.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes_xyxy_px: Tensor
    classes: Tensor
    entries: Tensor
    crowd_boxes_xyxy_px: Tensor
    crowd_classes: Tensor
    negative_classes: tuple[int, ...] = ()
    not_exhaustive_classes: tuple[int, ...] = ()
    only_pseudo: bool = False

    def every_box(self) -> Iterator[tuple[list[float], int, int]]:
        """Corners in pixels, class index and iscrowd (0 or 1) of each box; crowd boxes come last."""
        for crowd, boxes, classes in (
            (0, self.boxes_xyxy_px, self.classes),
            (1, self.crowd_boxes_xyxy_px, self.crowd_classes),
        ):
            for corners, label in zip(boxes.tolist(), classes.tolist(), strict=True):
                yield corners, label, crowd


class CocoDataset(Dataset[tuple[Image.Image, Targets, int]]):
    """Annotated images, restricted to the given classes; an item is (RGB image, Targets, image id).

    The constructor reads COCO JSON as its evaluators do; `cora.data.read.read_dataset` reads all formats and checks
    more strictly. Boxes that leave the image are clipped, and boxes without an area are dropped; both are counted in
    `repairs` and logged. Crowd boxes are kept apart: they are no training targets, and an evaluation ignores detections
    on them.

    Args:
        annotations: COCO JSON with images, annotations and categories.
        images: folder that the file names are relative to.
        class_names: classes to keep; targets are indices into them. None keeps all, in the file's order.
        strict: refuse boxes that need repair, too.
        keep_empty: keep images without a box of these classes; they teach what is background.
        skip_bad: skip unusable entries instead of refusing the file; they are counted in `dropped` and logged.

    Attributes:
        annotations: file or folder of the annotations.
        images: folder of the images.
        format: coco, lvis, voc or yolo.
        class_names: the classes kept.
        category_ids: class name -> id in the source.
        frequencies: class name -> f, c or r (frequent, common or rare), where the source says so (LVIS).
        repairs: kind -> number of repaired boxes, images or names.
        own_ids: whether the ids of the source are no whole numbers and were replaced by numbers.
        dropped: kind -> number of skipped images, boxes or lines; one with two faults counts under both kinds.
        records: the images.

    Raises:
        DataError: unreadable file, unknown or duplicate ids, missing image files, or classes that the file lacks; one
            message counts all kinds.
    """

    def __init__(
        self,
        *,
        annotations: Path,
        images: Path,
        class_names: Sequence[str] | None = None,
        strict: bool = False,
        keep_empty: bool = True,
        skip_bad: bool = False,
    ) -> None:
        findings = Findings()
        raw = read_coco(read_json(annotations), source=annotations, folder=images, findings=findings)
        self._build(raw, findings, class_names, strict=strict, keep_empty=keep_empty, skip_bad=skip_bad)

    @classmethod
    def from_raw(
        cls,
        raw: RawAnnotations,
        findings: Findings,
        *,
        class_names: Sequence[str] | None = None,
        keep_empty: bool = True,
        skip_bad: bool = False,
    ) -> CocoDataset:
        """The dataset of annotations that were read from any format.

        Unlike the constructor, it counts boxes without an area inside the image as bad.

        Args:
            raw: the annotations.
            findings: the faults that their reader found.
            class_names: as for the constructor.
            keep_empty: as for the constructor.
            skip_bad: as for the constructor.

        Raises:
            DataError: as the constructor.
        """
        dataset = cls.__new__(cls)
        dataset._build(raw, findings, class_names, keep_empty=keep_empty, skip_bad=skip_bad, empty_boxes="refuse")
        return dataset

    def _build(
        self,
        raw: RawAnnotations,
        findings: Findings,
        class_names: Sequence[str] | None,
        *,
        strict: bool = False,
        keep_empty: bool,
        skip_bad: bool,
        empty_boxes: Literal["drop", "refuse"] = "drop",
    ) -> None:
        self.annotations, self.images, self.format = raw.source, raw.folder, raw.format
        _refuse(raw, findings.faults)
        self.own_ids = raw.own_ids
        all_names = [name for name in raw.category_ids if name not in raw.unused_parents]
        self.class_names = tuple(all_names if class_names is None else class_names)
        if repeated := repeated_names(self.class_names):
            raise DataError(f"class names must differ, got {len(repeated)} repeated: {', '.join(repeated[:5])}")
        if class_names is not None or raw.declared:
            _check_class_names(self.class_names, raw)
        empty = findings.repairs if empty_boxes == "drop" else findings.bad
        spelling = spelled_as(self.class_names, raw.category_ids)
        index_of = {spelling.get(name, name): index for index, name in enumerate(self.class_names)}
        self.records = [_record(image, index_of, findings.repairs, empty) for image in raw.images]
        if not skip_bad:
            _refuse(raw, findings.bad, SKIP_BAD)
        if strict and findings.repairs:
            raise DataError(f"{raw.source}: {findings.repairs}; mend the boxes or read with strict=False")
        for kind, found in (("left out", findings.bad), ("left out with them", findings.lost), ("", findings.repairs)):
            if found:
                logger.warning("%s: %s", raw.source, f"{kind}: {found}" if kind else found)
        self.repairs: dict[str, int] = dict(findings.repairs.counts)
        self.dropped: dict[str, int] = dict(findings.bad.counts + findings.lost.counts)
        self.category_ids = {name: raw.category_ids[spelled] for name, spelled in spelling.items()}
        for name in self.class_names:
            self.category_ids.setdefault(name, max(self.category_ids.values(), default=0) + 1)
        self.frequencies = {
            name: raw.frequencies[spelled] for name, spelled in spelling.items() if spelled in raw.frequencies
        }
        if not keep_empty:
            self.records = [record for record in self.records if len(record.classes)]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets, int]:
        record = self.records[index]
        image = read_image(record.path)
        if (image.height, image.width) != record.size:
            raise DataError(
                f"{record.path.name}: the annotation file says {record.size[1]}x{record.size[0]} px, "
                f"the image has {image.width}x{image.height}; boxes would not fit"
            )
        return image, targets_of(record), record.image_id

    def with_records(self, records: Iterable[CocoImage]) -> Self:
        """A copy of the dataset with other images."""
        other = copy.copy(self)
        other.records = list(records)
        return other

    def class_counts(self) -> Tensor:
        """Number of boxes of each class, crowd boxes excepted: [C] int64."""
        classes = [record.classes for record in self.records]
        joined = torch.cat(classes) if classes else torch.zeros(0, dtype=torch.int64)
        return torch.bincount(joined, minlength=len(self.class_names))

    def to_coco(self) -> dict[str, Any]:
        """The dataset as the content of a COCO file.

        Category and image ids are those of the source. Annotations are numbered from 1, image by image in the order of
        `records`; crowd boxes come last in their image and have iscrowd 1. Boxes are clipped and rounded to 1e-4
        pixels, and areas are those of the boxes. LVIS keeps its class lists and frequencies. The boxes of an image that
        has only pseudo labels keep a `source`, an empty one.
        """
        return {
            "images": [self._image_entry(record) for record in self.records],
            "annotations": self._annotation_entries(),
            "categories": [
                {
                    "id": self.category_ids[name],
                    "name": name,
                    **({"frequency": self.frequencies[name]} if name in self.frequencies else {}),
                }
                for name in self.class_names
            ],
        }

    def _image_entry(self, record: CocoImage) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": record.image_id,
            "file_name": record.path.relative_to(self.images).as_posix(),
            "width": record.size[1],
            "height": record.size[0],
        }
        if self.format == "lvis":
            ids = [self.category_ids[name] for name in self.class_names]
            entry["neg_category_ids"] = [ids[index] for index in record.negative_classes]
            entry["not_exhaustive_category_ids"] = [ids[index] for index in record.not_exhaustive_classes]
        return entry

    def _annotation_entries(self) -> list[dict[str, Any]]:
        ids = [self.category_ids[name] for name in self.class_names]
        entries: list[dict[str, Any]] = []
        for record in self.records:
            for (x0, y0, x1, y1), label, crowd in record.every_box():
                bbox = [round(value, 4) for value in (x0, y0, x1 - x0, y1 - y0)]
                entries.append(
                    {
                        "id": len(entries) + 1,
                        "image_id": record.image_id,
                        "category_id": ids[label],
                        "bbox": bbox,
                        "area": round(bbox[2] * bbox[3], 4),
                        "iscrowd": crowd,
                        **({"source": {}} if record.only_pseudo else {}),
                    }
                )
        return entries


def targets_of(record: CocoImage) -> Targets:
    """The training targets of an image: its boxes, crowd boxes excepted, as fractions of the image."""
    height, width = record.size
    x0, y0, x1, y1 = record.boxes_xyxy_px.unbind(-1)
    cxcywh = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], -1)
    return Targets(boxes_cxcywh=cxcywh, classes=record.classes)


def _refuse(raw: RawAnnotations, problems: Problems, advice: str = "") -> None:
    if problems:
        raise DataError(f"{raw.source}: {problems}; mend the file or the image folder {raw.folder}{advice}")


def _check_class_names(class_names: Sequence[str], raw: RawAnnotations) -> None:
    if not class_names:
        raise DataError(f"{raw.source}: expected at least one class name, got none")
    absent = names_without(class_names, raw.category_ids)
    if not absent:
        return
    message = f"{raw.source} lacks {len(absent)} of the {len(class_names)} classes asked for: {', '.join(absent[:5])}"
    if raw.declared:
        raise DataError(f"{message}; it has: {listed(raw.category_ids, 10)}")
    # A format without a list of classes has those of its boxes, and a part of a set may lack boxes of some.
    logger.warning("%s", message)


def _record(image: RawImage, index_of: dict[str, int], repairs: Problems, empty: Problems) -> CocoImage:
    """The image with its usable boxes of the classes in `index_of`; boxes without an area are counted in `empty`."""
    kept = _deduplicated(
        [
            box._replace(xyxy_px=clipped)
            for box in image.boxes
            if box.class_name in index_of and (clipped := _clipped(box, image, repairs, empty)) is not None
        ],
        repairs,
    )
    single = [box for box in kept if not box.crowd]
    crowd = [box for box in kept if box.crowd]
    return CocoImage(
        image_id=image.image_id,
        path=image.path,
        size=image.size,
        boxes_xyxy_px=torch.tensor([box.xyxy_px for box in single], dtype=torch.float32).reshape(-1, 4),
        classes=torch.tensor([index_of[box.class_name] for box in single], dtype=torch.int64),
        entries=torch.tensor([box.entry for box in single], dtype=torch.int64),
        crowd_boxes_xyxy_px=torch.tensor([box.xyxy_px for box in crowd], dtype=torch.float32).reshape(-1, 4),
        crowd_classes=torch.tensor([index_of[box.class_name] for box in crowd], dtype=torch.int64),
        negative_classes=tuple(index_of[name] for name in image.negative if name in index_of),
        not_exhaustive_classes=tuple(index_of[name] for name in image.not_exhaustive if name in index_of),
        only_pseudo=bool(kept) and all(box.pseudo for box in kept),
    )


def _deduplicated(boxes: list[RawBox], repairs: Problems) -> list[RawBox]:
    """The boxes without repetitions: the same class, and the same corners to a hundredth of a pixel."""
    kept: dict[tuple[object, ...], RawBox] = {}
    for box in boxes:
        identity = (box.class_name, box.crowd, *(round(corner, 2) for corner in box.xyxy_px))
        if kept.setdefault(identity, box) is not box:
            repairs.add("boxes given twice, kept once", box.where)
    return list(kept.values())


def _clipped(
    box: RawBox, image: RawImage, repairs: Problems, empty: Problems
) -> tuple[float, float, float, float] | None:
    """The corners clipped to the image; None after a box without an area inside it was counted in `empty`."""
    x0, y0, x1, y1 = box.xyxy_px
    inner = max(x0, 0.0), max(y0, 0.0), min(x1, float(image.size[1])), min(y1, float(image.size[0]))
    if min(x1 - x0, y1 - y0) < MIN_BOX_SIDE_PX:
        empty.add("boxes without an area", box.where)
        return None
    if min(inner[2] - inner[0], inner[3] - inner[1]) < MIN_BOX_SIDE_PX:
        empty.add("boxes outside their image", box.where)
        return None
    # Files round coordinates to hundredths: a box that ends on the border is no fault.
    if max(inner[0] - x0, inner[1] - y0, x1 - inner[2], y1 - inner[3]) > 0.05:
        repairs.add("boxes reaching over the border, clipped", box.where)
    return inner
