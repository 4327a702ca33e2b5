"""COCO annotation files: one JSON object with the lists images, annotations and categories (Lin et al., 2014)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cora.data.problems import Findings, PhotoFolder, check_names, is_number, is_whole, read_text
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import DataError

#: LVIS v1 has 1.1 GB, the largest public sets twice that.
MAX_JSON_BYTES = 4 * 2**30

#: What has to be there.
LISTS = ("images", "annotations", "categories")

#: (image entry, folder of the photos) -> the file name to look for there.
NameOfImage = Callable[[dict[str, Any], PhotoFolder], object]


def read_json(path: Path) -> dict[str, Any]:
    """The content of a COCO or LVIS file; masks, which nothing here uses, are dropped while it is read.

    Raises:
        DataError: no such file, too large, no JSON, or without one of the three lists.
    """
    text = read_text(path, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    try:
        content = json.loads(text, object_hook=_without_mask)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); expected a COCO annotation file") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in LISTS):
        raise DataError(f"{path}: expected a COCO object with the lists {', '.join(LISTS)}")
    return content


def read_coco(
    content: dict[str, Any],
    *,
    source: Path,
    folder: Path,
    findings: Findings,
    name_of_image: NameOfImage = lambda entry, _: entry.get("file_name"),
) -> RawAnnotations:
    """Photos and boxes of a file's content; what cannot be used is counted in `findings` and left out.

    Raises:
        DataError: there is no image folder.
    """
    names = _categories(content["categories"], findings)
    images, known = _images(content["images"], PhotoFolder(folder), name_of_image, findings)
    _add_boxes(content["annotations"], images, known, names, findings)
    return RawAnnotations(
        format="coco",
        source=source,
        folder=folder,
        category_ids={name: number for number, name in names.items()},
        images=list(images.values()),
    )


def _without_mask(entry: dict[str, Any]) -> dict[str, Any]:
    # Polygons are nine tenths of a large file and as Python lists several times its size.
    entry.pop("segmentation", None)
    return entry


def _categories(entries: list[Any], findings: Findings) -> dict[int, str]:
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            findings.faults.add("categories without id or name", f"entry {position}")
        elif entry["id"] in names:
            findings.faults.add("duplicate category ids", entry["id"])
        else:
            names[entry["id"]] = entry["name"]
    check_names(list(names.values()), findings.faults)
    return names


def _images(
    entries: list[Any], folder: PhotoFolder, name_of_image: NameOfImage, findings: Findings
) -> tuple[dict[int, RawImage], set[int]]:
    """Usable images by id, and the ids of all."""
    images: dict[int, RawImage] = {}
    known: set[int] = set()
    for position, entry in enumerate(entries):
        name = name_of_image(entry, folder) if isinstance(entry, dict) else None
        if name is None or not {"id", "width", "height"} <= entry.keys():
            findings.bad.add("images without id, file_name, width or height", f"entry {position}")
            continue
        image_id = entry["id"]
        if not is_whole(image_id):
            findings.bad.add("image ids that are no whole numbers", repr(image_id))
            continue
        if image_id in known:
            findings.bad.add("duplicate image ids", image_id)
            continue
        known.add(image_id)
        sides = entry["height"], entry["width"]
        area = all(is_number(side) and side >= 1 for side in sides)
        if not area:
            findings.bad.add("images without an area", name)
        path = folder.find(name, findings.bad)
        if path is not None and area:
            images[image_id] = RawImage(image_id=image_id, path=path, size=(int(sides[0]), int(sides[1])))
    return images, known


def _add_boxes(
    entries: list[Any], images: dict[int, RawImage], known: set[int], names: dict[int, str], findings: Findings
) -> None:
    seen: set[object] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox"} <= entry.keys():
            findings.bad.add("annotations without image_id, category_id or bbox", f"entry {position}")
            continue
        identity = entry.get("id", f"(no id, annotation {position})")
        if not isinstance(identity, int | str):
            findings.bad.add("annotation ids that are no numbers", f"entry {position}")
            continue
        duplicate = identity in seen
        if duplicate:
            findings.bad.add("duplicate annotation ids", identity)
        seen.add(identity)
        image_id, category_id = entry["image_id"], entry["category_id"]
        if not is_whole(image_id) or image_id not in known:
            findings.bad.add("annotations of unknown images", identity)
        elif not is_whole(category_id) or category_id not in names:
            findings.bad.add("unknown category ids", f"annotation {identity}: {category_id}")
        elif not _is_box(entry["bbox"]):
            findings.bad.add("boxes that are not four finite numbers", identity)
        elif image_id not in images:
            findings.lost.add("boxes of photos left out", identity)
        elif not duplicate:
            x, y, w, h = entry["bbox"]
            crowd = bool(entry.get("iscrowd", 0))
            box = RawBox(names[category_id], (x, y, x + w, y + h), crowd, position, f"annotation {identity}")
            images[image_id].boxes.append(box)


def _is_box(bbox: object) -> bool:
    return isinstance(bbox, list) and len(bbox) == 4 and all(is_number(x) for x in bbox)
