"""Ground truth as a file has it: its own boxes and areas, so that numbers are those of the benchmark's own tools.

`predict.ground_truth` gives the same for a dataset of any format, with boxes clipped and areas of boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cora.data.coco_content import read_json
from cora.data.lvis import FREQUENCIES
from cora.data.problems import Problems, is_number, is_whole, listed
from cora.errors import DataError
from cora.names import names_without, spelled_as

#: What an image of LVIS says besides its boxes: lists of category ids.
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def read_truth(annotations: Path, *, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Read a COCO or LVIS file as a COCO dictionary; category id = place in the class list + 1.

    Args:
        annotations: the file.
        class_names: classes to keep, in this order; all, in the file's order, if None.

    Returns:
        images with id, width, height and file_name, those of LVIS with `neg_category_ids` and
        `not_exhaustive_category_ids`; annotations with image_id, category_id, bbox, area and iscrowd; categories
        with id, name, `source_id` (the file's) and, of LVIS, frequency; `other_category_ids`, the file's ids of
        classes that are not kept.

    Raises:
        DataError: the file cannot be read, lacks classes, or has entries that cannot be used, counted by kind.
    """
    content = read_json(annotations)
    problems = Problems()
    categories = _categories(content["categories"], problems)
    names = tuple(categories) if class_names is None else tuple(class_names)
    absent = names_without(names, categories)
    if absent:
        raise DataError(
            f"{annotations} lacks {len(absent)} of the {len(names)} classes asked for: {listed(absent)}; "
            f"it has: {listed(categories, 10)}"
        )
    spelled = spelled_as(names, categories)
    place_of = {categories[spelled[name]]["id"]: place for place, name in enumerate(names, start=1)}
    images = _images(content["images"], place_of, problems)
    known = {entry["id"] for entry in categories.values()}
    boxes = _boxes(content["annotations"], images, known, problems)
    if problems:
        raise DataError(f"{annotations}: {problems}; mend the file")
    kept = [
        {**box, "id": number, "category_id": place_of[box["category_id"]]}
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
        "other_category_ids": sorted(known - place_of.keys()),
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


def _categories(entries: Sequence[Any], problems: Problems) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    numbers = set()
    for entry in entries:
        if not isinstance(entry, dict) or not is_whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            problems.add("categories without id or name", entry)
        elif entry["name"] in found or entry["id"] in numbers:
            problems.add("categories that are listed twice", entry["name"])
        else:
            numbers.add(entry["id"])
            found[entry["name"]] = {key: entry[key] for key in ("id", "name", "frequency") if key in entry}
    return found


def _images(entries: Sequence[Any], place_of: Mapping[int, int], problems: Problems) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not all(is_whole(entry.get(key)) for key in ("id", "width", "height")):
            problems.add("images without id, width or height", entry)
        elif entry["id"] in found:
            problems.add("duplicate image ids", entry["id"])
        else:
            image = {key: entry[key] for key in ("id", "width", "height", "file_name") if key in entry}
            for key in FEDERATED:
                if isinstance(entry.get(key), list):
                    image[key] = [place_of[number] for number in entry[key] if number in place_of]
            found[entry["id"]] = image
    return found


def _boxes(
    entries: Sequence[Any], images: Collection[int], categories: Collection[int], problems: Problems
) -> list[dict[str, Any]]:
    found = []
    for place, entry in enumerate(entries):
        where = entry.get("id", f"entry {place}") if isinstance(entry, dict) else f"entry {place}"
        if not isinstance(entry, dict) or not is_box(entry.get("bbox")):
            problems.add("annotations without a box of four numbers, sides 0 or more", where)
        elif entry.get("image_id") not in images:
            problems.add("annotations of unknown images", where)
        elif entry.get("category_id") not in categories:
            problems.add("annotations of unknown categories", where)
        elif not is_number(area := entry.get("area", entry["bbox"][2] * entry["bbox"][3])):
            problems.add("annotations whose area is no number", where)
        else:
            plain = {key: entry[key] for key in ("image_id", "category_id", "bbox")}
            found.append({**plain, "area": area, "iscrowd": int(bool(entry.get("iscrowd", 0)))})
    return found


def is_box(value: object) -> bool:
    """Whether `value` is x, y, width, height: four finite numbers, the sides 0 or more."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(is_number(v) for v in value)
        and min(value[2], value[3]) >= 0
    )
