"""Ground truth exactly as its COCO file has it, so that metrics equal those of the benchmark's own tools.

`predict.ground_truth` makes the same dictionary from a dataset of any format. Its boxes are clipped, and its areas are
those of the boxes, not of masks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from cora.data.coco_content import FEDERATED, Classes, classes_of, read_json
from cora.data.lvis import FREQUENCIES
from cora.data.problems import Problems, is_box, is_number, is_whole, listed, truth_value
from cora.errors import DataError
from cora.names import names_without, spelled_as

logger = logging.getLogger(__name__)


def read_truth(
    annotations: Path,
    *,
    class_names: Sequence[str] | None = None,
    sizes: Mapping[int, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Read a COCO or LVIS file as a COCO dictionary whose category ids count the kept classes from 1.

    Args:
        annotations: the file.
        class_names: classes to keep, in this order; None keeps all, in the file's order.
        sizes: image id -> (height, width) in pixels of images that were read; otherwise the file has to say it.

    Returns:
        A dictionary with these keys:

        - `images`: id, width, height and file_name; for LVIS also `neg_category_ids` and `not_exhaustive_category_ids`.
        - `annotations`: image_id, category_id, bbox, area and iscrowd.
        - `categories`: id, name, `source_id` (the id in the file) and, for LVIS, frequency.
        - `other_category_ids`: ids, in the file, of the classes that are not kept.
        - `merged_category_ids`, `again`: id of a repeated class or image -> id of the first one.
        - `image_numbers`, `category_numbers`: id in the file as text -> number, where the file's ids are texts.

    Raises:
        DataError: the file cannot be read, lacks classes, or has entries that cannot be used, counted by kind.
    """
    content = read_json(annotations)
    problems, repairs = Problems(), Problems()
    repairs.update(content.repairs)
    classes = classes_of(content["categories"], content["annotations"], problems, repairs)
    categories = _categories(content["categories"], classes)
    usual = [name for name in categories if name not in classes.unused_parents]
    names = tuple(usual if class_names is None else class_names)
    absent = names_without(names, categories)
    if absent:
        raise DataError(
            f"{annotations} lacks {len(absent)} of the {len(names)} classes asked for: {listed(absent)}; "
            f"it has: {listed(categories, 10)}"
        )
    spelled = spelled_as(names, categories)
    place_of = {categories[spelled[name]]["id"]: place for place, name in enumerate(names, start=1)}
    place_of |= {number: place_of[first] for number, first in classes.merged.items() if first in place_of}
    images, again = _images(content["images"], place_of, sizes or {}, problems, repairs)
    boxes = _boxes(content["annotations"], images.keys() | again.keys(), classes.names, problems, repairs)
    if problems:
        raise DataError(f"{annotations}: {problems}; mend the file")
    if repairs:
        logger.warning("%s: %s", annotations, repairs)
    kept = [
        {
            **box,
            "id": number,
            "image_id": again.get(box["image_id"], box["image_id"]),
            "category_id": place_of[box["category_id"]],
        }
        for number, box in enumerate(boxes, start=1)
        if box["category_id"] in place_of
    ]
    return {
        "images": list(images.values()),
        "annotations": kept,
        "categories": [
            {**categories[spelled[name]], "name": name, "source_id": categories[spelled[name]]["id"], "id": place}
            for place, name in enumerate(names, start=1)
        ],
        "other_category_ids": sorted(classes.names.keys() - place_of.keys()),
        "merged_category_ids": classes.merged,
        "again": again,
        "image_numbers": content.image_numbers,
        "category_numbers": content.category_numbers,
    }


def only_images(truth: Mapping[str, Any], image_ids: Collection[int]) -> dict[str, Any]:
    """The same ground truth restricted to some images."""
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in image_ids],
        "annotations": [box for box in truth["annotations"] if box["image_id"] in image_ids],
    }


def frequencies_of(truth: Mapping[str, Any]) -> dict[str, str]:
    """Class name -> f, c or r where the file says so (LVIS)."""
    return {c["name"]: c["frequency"] for c in truth["categories"] if c.get("frequency") in FREQUENCIES}


def _categories(entries: Sequence[Any], classes: Classes) -> dict[str, dict[str, Any]]:
    """Name -> id, name and frequency of each usable class."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if is_whole(number) and number in classes.names and number not in classes.merged:
            name = classes.names[number]
            frequency = {"frequency": entry["frequency"]} if "frequency" in entry else {}
            found[name] = {"id": number, "name": name, **frequency}
    return found


def _images(
    entries: Sequence[Any],
    place_of: Mapping[int, int],
    sizes: Mapping[int, tuple[int, int]],
    problems: Problems,
    repairs: Problems,
) -> tuple[dict[int, dict[str, Any]], dict[int, int]]:
    """Id -> image, and id of a repeated image -> id of the first one of that file name."""
    found: dict[int, dict[str, Any]] = {}
    again: dict[int, int] = {}
    first_of_name: dict[str, int] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not is_whole(entry.get("id")):
            problems.add("images without id", entry)
            continue
        number, name = entry["id"], entry.get("file_name")
        first = first_of_name.setdefault(name, number) if isinstance(name, str) else number
        height, width = sizes.get(first) or (entry.get("height"), entry.get("width"))
        if number in found or number in again:
            problems.add("duplicate image ids", number)
        elif not (is_number(height) and is_number(width)):
            problems.add("images without width or height, which can be measured (--images)", name or number)
        elif first != number:
            again[number] = first
            repairs.add("images listed twice, merged", f"{name}: ids {first}, {number}")
        else:
            image = {"id": number, "height": int(height), "width": int(width)}
            if "file_name" in entry:
                image["file_name"] = entry["file_name"]
            for key in FEDERATED:
                if isinstance(entry.get(key), list):
                    image[key] = [place_of[number] for number in entry[key] if number in place_of]
            found[number] = image
    return found, again


def _boxes(
    entries: Sequence[Any],
    images: Collection[int],
    categories: Collection[int],
    problems: Problems,
    repairs: Problems,
) -> list[dict[str, Any]]:
    """The annotations of the given image and category ids; all others are counted in `problems`."""
    found = []
    seen: set[tuple[object, ...]] = set()
    for place, entry in enumerate(entries):
        where = entry.get("id", f"entry {place}") if isinstance(entry, dict) else f"entry {place}"
        if not isinstance(entry, dict) or not is_sized_box(entry.get("bbox")):
            problems.add("annotations without a box of four numbers, sides 0 or more, or an outline", where)
        elif not is_whole(image_id := entry.get("image_id")) or image_id not in images:
            problems.add("annotations of an unknown image", where)
        elif not is_whole(category_id := entry.get("category_id")) or category_id not in categories:
            problems.add("annotations of an unknown category", where)
        elif not is_number(area := entry.get("area", entry["bbox"][2] * entry["bbox"][3])):
            problems.add("annotations whose area is no number", where)
        elif (crowd := truth_value(entry.get("iscrowd"))) is None:
            problems.add("values of iscrowd that are neither 0 nor 1", f"{where}: {entry['iscrowd']}")
        else:
            box = {"image_id": image_id, "category_id": category_id, "bbox": entry["bbox"]}
            found.append({**box, "area": area, "iscrowd": int(crowd)})
            identity = (image_id, category_id, *entry["bbox"], crowd)
            if identity in seen:
                # Both stay, since COCO's own tools, which published numbers come from, count both.
                repairs.add("boxes given twice, counted twice", where)
            seen.add(identity)
    return found


def is_sized_box(value: object) -> TypeGuard[list[float]]:
    """Whether `value` is [x, y, width, height]: four finite numbers, width and height 0 or more."""
    return is_box(value) and min(value[2:]) >= 0
