"""The open-vocabulary benchmarks OV-COCO and OV-LVIS: which images take part, and their annotation files.

Training uses the images that have a box of a base class (OV-COCO: 107,761 of train2017). Testing on OV-COCO uses the
images that have a box of one of the 65 classes (4,836 of val2017). Testing on OV-LVIS uses every image, since its lists
of absent classes count as well. Boxes around crowds count as boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from cora.console import output_console, say
from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset
from cora.data.coco_content import FEDERATED, LISTS
from cora.data.lvis import is_lvis
from cora.data.problems import listed
from cora.errors import DataError
from cora.files import json_kind
from cora.names import name_key, names_without

Part = Literal["base", "novel", "all"]

#: Key of `info` under which a written file records its split.
MARK = "class_split"
_AnyDataset = TypeVar("_AnyDataset", bound=CocoDataset)


@dataclass(frozen=True)
class ImageSet:
    """How many images of a file take part in a benchmark, and how many boxes they have.

    Attributes:
        benchmark: name of its split.
        training: whether the images are for training; otherwise for testing.
        images: number of images that take part.
        images_before: number of images in the file.
        boxes: number of boxes of the classes concerned, those of crowds included.
        classes: number of these classes.
    """

    benchmark: str
    training: bool
    images: int
    images_before: int
    boxes: int
    classes: int

    def __str__(self) -> str:
        use, classes = ("train on", "base classes") if self.training else ("test on", "classes")
        why = f"those with a box of the {self.classes} {classes}"
        if self.benchmark == "lvis" and not self.training:
            why = "every image counts"
        counts = f"{self.images} of {self.images_before} images"
        return f"OV-{self.benchmark.upper()}: {counts} to {use} ({why}), {self.boxes} boxes"


def image_set(dataset: _AnyDataset, split: ClassSplit | None, *, training: bool) -> tuple[_AnyDataset, ImageSet | None]:
    """The images of a dataset that take part in a benchmark, and their number.

    Args:
        dataset: restricted to the base classes for training, to all classes of the split for testing.
        split: a split that belongs to no benchmark, or None, keeps all images.
        training: whether the images are for training; otherwise for testing.

    Returns:
        The dataset with these images, and their number; None as the number where there is no benchmark.

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
    """The images of `image_set` for training; their number is printed.

    Raises:
        DataError: no image takes part.
    """
    return _printed(*image_set(dataset, split, training=True))


def testing_images(dataset: _AnyDataset, split: ClassSplit | None) -> _AnyDataset:
    """The images of `image_set` for testing; their number is printed.

    Raises:
        DataError: no image takes part.
    """
    return _printed(*image_set(dataset, split, training=False))


def _printed(kept: _AnyDataset, counts: ImageSet | None) -> _AnyDataset:
    if counts is not None:
        say(output_console(), str(counts))
    return kept


def images_tested(truth: Mapping[str, Any], split: ClassSplit | None) -> tuple[frozenset[int], ImageSet | None]:
    """Ids of the images that a benchmark is tested on, and their number.

    Args:
        truth: ground truth as a COCO dictionary, restricted to the classes of the split.
        split: a split that belongs to no benchmark, or None, keeps all images; their number is then None.
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
    required = {"images": ("id",), "categories": ("id",), "annotations": ("image_id", "category_id")}
    for part, keys in required.items():
        for place, entry in enumerate(content[part], start=1):
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                raise DataError(
                    f"{source}: expected entries of {part} with {' and '.join(keys)}, got none at place {place}"
                )
            if odd := [key for key in keys if not isinstance(entry[key], int | float | str)]:
                got = f"{json_kind(entry[odd[0]])} at place {place}"
                raise DataError(f"{source}: expected a number as {odd[0]} of {part}, got {got}")
            for key in FEDERATED if part == "images" else ():
                if not isinstance(entry.get(key) or [], list):
                    got = f"{json_kind(entry[key])} at place {place}"
                    raise DataError(f"{source}: expected a list of category ids as {key}, got {got}")


def split_annotations(content: Mapping[str, Any], split: ClassSplit, part: Part, *, source: Path) -> dict[str, Any]:
    """The content of an annotation file, restricted to one part of a split and to the images that take part.

    The remaining categories, images and annotations keep all their fields. For testing, an LVIS file keeps all images.

    Args:
        content: content of a COCO or LVIS file.
        split: base and novel classes.
        part: "base" for training, "all" for testing, or "novel" for testing on the novel classes alone.
        source: file of the content, for messages.

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
    keep_all = is_lvis(dict(content)) and part != "base"
    images = [_with_lists_of(entry, ids) for entry in content["images"] if keep_all or entry["id"] in with_box]
    info = content.get("info")
    return {
        **content,
        "info": {**(info if isinstance(info, dict) else {}), MARK: {"split": split.benchmark or "file", "part": part}},
        "images": images,
        "annotations": boxes,
        "categories": categories,
    }


def _with_lists_of(image: dict[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """An image whose lists of classes (LVIS) are restricted to these category ids."""
    return image | {key: [number for number in image[key] if number in ids] for key in FEDERATED if image.get(key)}
