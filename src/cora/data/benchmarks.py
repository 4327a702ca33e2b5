"""The open-vocabulary benchmarks OV-COCO and OV-LVIS: which images take part, and their annotation files.

Trained on is every image that has a box of a base class (OV-COCO: 107,761 of train2017). Tested on is, of COCO, every
image that has a box of one of the 65 classes (4,836 of val2017); of LVIS every image, since its lists of absent classes
count. Boxes around crowds are boxes, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from cora.console import output_console, say
from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset
from cora.data.coco_content import LISTS
from cora.data.lvis import is_lvis
from cora.data.problems import listed
from cora.errors import DataError
from cora.names import name_key, names_without

Part = Literal["base", "novel", "all"]

#: Where the split is recorded in a written file.
MARK = "class_split"
_AnyDataset = TypeVar("_AnyDataset", bound=CocoDataset)
_LISTS_OF_CLASSES = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class ImageSet:
    """How many images of a file take part, and how many boxes they have.

    Attributes:
        benchmark: name of the split.
        training: whether they are trained on.
        images, images_before: that take part, and of the file.
        boxes: of the classes concerned, those of crowds included.
        classes: how many these are.
    """

    benchmark: str
    training: bool
    images: int
    images_before: int
    boxes: int
    classes: int

    def __str__(self) -> str:
        use, which = ("train on", f"a box of the {self.classes} base classes")
        if not self.training:
            use, which = "test on", f"a box of the {self.classes} classes"
        counts = f"{self.images} of {self.images_before} images"
        why = "every image counts" if self.benchmark == "lvis" and not self.training else f"those with {which}"
        return f"OV-{self.benchmark.upper()}: {counts} to {use} ({why}), {self.boxes} boxes"


def image_set(dataset: _AnyDataset, split: ClassSplit | None, *, training: bool) -> tuple[_AnyDataset, ImageSet | None]:
    """The images of a set that take part in a benchmark, and their number; all, and None, for another split.

    Args:
        dataset: restricted to the base classes for training, to all for testing.
        split: of which a benchmark's is known by its name.
        training: whether the images are trained on.

    Raises:
        DataError: no image takes part.
    """
    if split is None or not split.benchmark:
        return dataset, None
    kept = dataset
    counts = [len(record.classes) + len(record.crowd_classes) for record in dataset.records]
    if training or dataset.format != "lvis":
        kept = dataset.with_records(record for record, count in zip(dataset.records, counts, strict=True) if count)
    if not kept.records:
        raise DataError(f"{dataset.annotations}: expected images with a box of the split {split.benchmark}, got none")
    return kept, ImageSet(
        benchmark=split.benchmark,
        training=training,
        images=len(kept.records),
        images_before=len(dataset.records),
        boxes=sum(counts),
        classes=len(dataset.class_names),
    )


def training_images(dataset: _AnyDataset, split: ClassSplit | None) -> _AnyDataset:
    """The images of `image_set` to train on, their number printed.

    Raises:
        DataError: no image takes part.
    """
    return _told(*image_set(dataset, split, training=True))


def testing_images(dataset: _AnyDataset, split: ClassSplit | None) -> _AnyDataset:
    """The images of `image_set` to test on, their number printed.

    Raises:
        DataError: no image takes part.
    """
    return _told(*image_set(dataset, split, training=False))


def _told(kept: _AnyDataset, counts: ImageSet | None) -> _AnyDataset:
    if counts is not None:
        say(output_console(), str(counts))
    return kept


def images_tested(truth: Mapping[str, Any], split: ClassSplit | None) -> tuple[frozenset[int], ImageSet | None]:
    """Ids of the images that a benchmark is tested on, and their number; all, and None, for another split.

    Args:
        truth: ground truth, restricted to the split's classes.
        split: of which a benchmark's is known by its name.
    """
    chosen = frozenset(image["id"] for image in truth["images"])
    if split is None or not split.benchmark:
        return chosen, None
    if not any("neg_category_ids" in image for image in truth["images"]):
        chosen &= frozenset(box["image_id"] for box in truth["annotations"])
    return chosen, ImageSet(
        benchmark=split.benchmark,
        training=False,
        images=len(chosen),
        images_before=len(truth["images"]),
        boxes=len(truth["annotations"]),
        classes=len(truth["categories"]),
    )


def _check_entries(content: Mapping[str, Any], source: Path) -> None:
    wanted = {"images": ("id",), "categories": ("id",), "annotations": ("image_id", "category_id")}
    for key, ids in wanted.items():
        for place, entry in enumerate(content[key], start=1):
            if not isinstance(entry, dict) or any(one not in entry for one in ids):
                raise DataError(
                    f"{source}: expected entries of {key} with {' and '.join(ids)}, got none at place {place}"
                )


def split_annotations(content: Mapping[str, Any], split: ClassSplit, part: Part, *, source: Path) -> dict[str, Any]:
    """The content of an annotation file, restricted to one part of a split and to the images that take part.

    Everything else that the file says of its categories, images and boxes is kept. Of an LVIS file all images stay for
    testing.

    Args:
        content: of a COCO or LVIS file.
        split: base and novel classes.
        part: "base" for training; "all" for testing, or "novel" for that of the novel classes alone.
        source: of the content, for messages.

    Raises:
        DataError: lists or classes are missing, or no box is left.
    """
    if not all(isinstance(content.get(key), list) for key in LISTS):
        raise DataError(f"{source}: expected a COCO or LVIS file with the lists {', '.join(LISTS)}")
    _check_entries(content, source)
    names = {"base": split.base, "novel": split.novel, "all": split.all}[part]
    absent = names_without(names, [str(entry.get("name")) for entry in content["categories"]])
    if absent:
        raise DataError(f"{source}: expected {len(names)} classes, got {len(absent)} missing: {listed(absent)}")
    keys = set(map(name_key, names))
    categories = [entry for entry in content["categories"] if name_key(str(entry.get("name"))) in keys]
    ids = {entry["id"] for entry in categories}
    boxes = [entry for entry in content["annotations"] if entry.get("category_id") in ids]
    if not boxes:
        raise DataError(f"{source}: expected boxes of {len(names)} classes, got none")
    with_box = {entry["image_id"] for entry in boxes}
    every = is_lvis(dict(content)) and part != "base"
    images = [_listing(entry, ids) for entry in content["images"] if every or entry.get("id") in with_box]
    info = content.get("info")
    return {
        **content,
        "info": {**(info if isinstance(info, dict) else {}), MARK: {"split": split.benchmark or "file", "part": part}},
        "images": images,
        "annotations": boxes,
        "categories": categories,
    }


def _listing(image: dict[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """An image whose lists of classes name none that the file lacks."""
    found = {key: [number for number in image[key] if number in ids] for key in _LISTS_OF_CLASSES if key in image}
    return image | found
