"""Photos with boxes in the COCO format: one annotation file, one folder of images."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cora.errors import DataError
from cora.images import read_image
from cora.structures import Targets

logger = logging.getLogger(__name__)

#: Boxes thinner than this many pixels after clipping hold no object that a detector could find.
MIN_BOX_SIDE_PX = 1e-3


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One photo of an annotation file.

    Attributes:
        image_id: of the file.
        path: of the photo.
        size: (height, width) in pixels as the file says.
        boxes_xyxy_px: [T, 4] corners, clipped to the photo.
        classes: [T] int64 index into the class names.
        entries: [T] int64 where the boxes stand in the file's list of annotations.
        crowd_boxes_xyxy_px: [U, 4] boxes around crowds.
        crowd_classes: [U] int64.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes_xyxy_px: Tensor
    classes: Tensor
    entries: Tensor
    crowd_boxes_xyxy_px: Tensor
    crowd_classes: Tensor


@dataclass
class _Problems:
    """Counts by kind with a first example each, so that one message tells how bad a file is."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: object) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, str(example))

    def __str__(self) -> str:
        return "; ".join(f"{n} {kind} (first: {self.examples[kind]})" for kind, n in self.counts.items())


class CocoDataset(Dataset[tuple[Image.Image, Targets, int]]):
    """Items (photo RGB, Targets, image id) of a COCO annotation file, restricted to the classes named.

    Boxes that leave the image are clipped and boxes without an area are dropped; both are counted in
    `repairs` and logged. Crowd boxes are kept apart: they are no training targets, evaluation ignores
    detections on them.

    Args:
        annotations: COCO JSON with images, annotations and categories.
        images: folder that the file names are relative to.
        class_names: classes to keep, in the order that target indices follow; None keeps all, in the file's
            order.
        strict: refuse boxes that need repair, too.
        keep_empty: keep photos without a box of these classes (they teach what is background).

    Raises:
        DataError: unreadable file, unknown or duplicate ids, missing image files, classes that the file
            lacks; each kind is counted in one message.
    """

    def __init__(
        self,
        *,
        annotations: Path,
        images: Path,
        class_names: Sequence[str] | None = None,
        strict: bool = False,
        keep_empty: bool = True,
    ) -> None:
        self.annotations, self.images = annotations, images
        content = _read(annotations)
        problems, repairs = _Problems(), _Problems()
        names = _categories(content["categories"], problems)
        self.class_names = tuple(class_names) if class_names is not None else tuple(names.values())
        _check_class_names(self.class_names, names, annotations)
        records = _image_records(content["images"], images, problems)
        boxes = _boxes_by_image(content["annotations"], records, names, self.class_names, problems, repairs)
        if problems.counts:
            raise DataError(f"{annotations}: {problems}; mend the file or the image folder {images}")
        if repairs.counts:
            if strict:
                raise DataError(f"{annotations}: {repairs}; mend the boxes or read with strict=False")
            logger.warning("%s: %s", annotations, repairs)
        self.repairs: dict[str, int] = dict(repairs.counts)
        self.records: list[CocoImage] = [
            _coco_image(image_id, record, images, boxes.get(image_id, [])) for image_id, record in records.items()
        ]
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

    def class_counts(self) -> Tensor:
        """Number of boxes of each class: [C] int64."""
        classes = [record.classes for record in self.records]
        joined = torch.cat(classes) if classes else torch.zeros(0, dtype=torch.int64)
        return torch.bincount(joined, minlength=len(self.class_names))


def targets_of(record: CocoImage) -> Targets:
    """Boxes of a record as fractions of its image (cxcywh in 0..1)."""
    height, width = record.size
    x0, y0, x1, y1 = record.boxes_xyxy_px.unbind(-1)
    cxcywh = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], -1)
    return Targets(boxes_cxcywh=cxcywh, classes=record.classes)


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no annotation file at {path}; expected COCO JSON") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); expected a COCO annotation file") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DataError(f"{path}: expected a COCO object with the lists {', '.join(keys)}")
    return {key: content[key] for key in keys}


def _categories(entries: list[Any], problems: _Problems) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("name"), str):
            problems.add("categories without id or name", entry)
        elif entry["id"] in names:
            problems.add("duplicate category ids", entry["id"])
        else:
            names[entry["id"]] = entry["name"]
    for name, count in Counter(names.values()).items():
        if count > 1:
            problems.add("category names used twice", name)
    return names


def _check_class_names(class_names: Sequence[str], names: dict[int, str], path: Path) -> None:
    if not class_names:
        raise DataError(f"{path}: expected at least one class name, got none")
    repeated = [name for name, n in Counter(class_names).items() if n > 1]
    if repeated:
        raise DataError(f"class names must differ, got {len(repeated)} repeated: {', '.join(repeated[:5])}")
    absent = [name for name in class_names if name not in set(names.values())]
    if absent:
        raise DataError(
            f"{path} lacks {len(absent)} of the {len(class_names)} classes asked for: "
            f"{', '.join(absent[:5])}; it has: {', '.join(list(names.values())[:10])}"
        )


def _image_records(entries: list[Any], folder: Path, problems: _Problems) -> dict[int, dict[str, Any]]:
    records: dict[int, dict[str, Any]] = {}
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for entry in entries:
        if not isinstance(entry, dict) or not {"id", "file_name", "width", "height"} <= entry.keys():
            problems.add("images without id, file_name, width or height", entry)
            continue
        if entry["id"] in records:
            problems.add("duplicate image ids", entry["id"])
            continue
        if entry["width"] < 1 or entry["height"] < 1:
            problems.add("images without an area", entry["file_name"])
        name = str(entry["file_name"])
        if name not in present and not (folder / name).is_file():
            problems.add("missing image files", name)
        records[entry["id"]] = entry
    return records


#: (class index, crowd, box xyxy in pixels, position in the file's list)
_Box = tuple[int, bool, tuple[float, float, float, float], int]


def _boxes_by_image(
    entries: list[Any],
    records: dict[int, dict[str, Any]],
    names: dict[int, str],
    class_names: Sequence[str],
    problems: _Problems,
    repairs: _Problems,
) -> dict[int, list[_Box]]:
    boxes: dict[int, list[_Box]] = {}
    index_of = {name: i for i, name in enumerate(class_names)}
    seen: set[object] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox"} <= entry.keys():
            problems.add("annotations without image_id, category_id or bbox", entry)
            continue
        identity = entry.get("id", f"(no id, annotation {position})")
        if identity in seen:
            problems.add("duplicate annotation ids", identity)
        seen.add(identity)
        if entry["image_id"] not in records:
            problems.add("annotations of unknown images", identity)
        elif entry["category_id"] not in names:
            problems.add("unknown category ids", f"annotation {identity}: {entry['category_id']}")
        elif not _is_box(entry["bbox"]):
            problems.add("boxes that are not four finite numbers", identity)
        elif names[entry["category_id"]] in index_of:
            box = _clipped(entry["bbox"], records[entry["image_id"]], identity, repairs)
            if box is not None:
                label = index_of[names[entry["category_id"]]]
                found = (label, bool(entry.get("iscrowd", 0)), box, position)
                boxes.setdefault(entry["image_id"], []).append(found)
    return boxes


def _is_box(bbox: object) -> bool:
    return (
        isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(x, int | float) and math.isfinite(x) for x in bbox)
    )


def _clipped(
    bbox: list[float], image: dict[str, Any], identity: object, repairs: _Problems
) -> tuple[float, float, float, float] | None:
    x, y, w, h = bbox
    x0, y0 = max(x, 0.0), max(y, 0.0)
    x1, y1 = min(x + w, float(image["width"])), min(y + h, float(image["height"]))
    if min(w, h, x1 - x0, y1 - y0) < MIN_BOX_SIDE_PX:
        repairs.add("boxes without an area inside the image, dropped", identity)
        return None
    # Files round coordinates to hundredths: a box that ends on the border is no fault.
    if max(x0 - x, y0 - y, x + w - x1, y + h - y1) > 0.05:
        repairs.add("boxes reaching over the border, clipped", identity)
    return x0, y0, x1, y1


def _coco_image(image_id: int, record: dict[str, Any], folder: Path, boxes: list[_Box]) -> CocoImage:
    single = [box for box in boxes if not box[1]]
    crowd = [box for box in boxes if box[1]]
    return CocoImage(
        image_id=image_id,
        path=folder / str(record["file_name"]),
        size=(int(record["height"]), int(record["width"])),
        boxes_xyxy_px=torch.tensor([box[2] for box in single], dtype=torch.float32).reshape(-1, 4),
        classes=torch.tensor([box[0] for box in single], dtype=torch.int64),
        entries=torch.tensor([box[3] for box in single], dtype=torch.int64),
        crowd_boxes_xyxy_px=torch.tensor([box[2] for box in crowd], dtype=torch.float32).reshape(-1, 4),
        crowd_classes=torch.tensor([box[0] for box in crowd], dtype=torch.int64),
    )
