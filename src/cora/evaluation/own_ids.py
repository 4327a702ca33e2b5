"""Detections with ids of their own, as `cora detect` and `cora batch` write them.

Such a file numbers images and classes in its own way, and lists them. File names and class names then relate its ids to
those of the ground truth.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cora.data.photo_folder import name_of_file
from cora.data.problems import Problems
from cora.errors import DataError
from cora.names import name_key

logger = logging.getLogger(__name__)

#: Id in the file of detections -> id in the ground truth; None where the ground truth lacks the image or class.
_Ids = Mapping[object, object]


def in_ids_of_truth(path: Path, content: Mapping[str, Any], truth: Mapping[str, Any]) -> list[Any]:
    """The detections of a COCO file, with their ids translated to those of the ground truth.

    Image ids are translated if the file lists its images, category ids if it lists its categories. Detections in images
    and of classes that the ground truth lacks are skipped with a warning.

    Args:
        path: of the file, for messages.
        content: an object with the list `annotations`, and maybe `images` and `categories`.
        truth: of `truth.read_truth`.

    Raises:
        DataError: the ground truth lacks the image or the class of every detection.
    """
    entries: list[Any] = content["annotations"]
    named = all("file_name" in image for image in truth["images"])
    maps = {
        "image_id": _ids(
            content.get("images") if named else None, "file_name", _image_of(truth), _texts(truth, "image_numbers")
        ),
        "category_id": _ids(content.get("categories"), "name", _class_of(truth), _texts(truth, "category_numbers")),
    }
    lacking = Problems()
    kept = [one for entry in entries if (one := _translated(entry, maps, lacking)) is not None]
    if lacking and not kept:
        raise DataError(
            f"{path}: expected detections in images and of classes of the annotation file, got {lacking}; "
            "name the annotations of these images"
        )
    if lacking:
        logger.warning("%s: left out %s", path, lacking)
    return kept


def _translated(entry: Any, maps: Mapping[str, tuple[_Ids, Mapping[object, str]]], lacking: Problems) -> Any:
    """The detection with ids of the ground truth; None after an untranslatable one was counted in `lacking`."""
    if not isinstance(entry, dict):
        return entry
    changed = dict(entry)
    for key, (ids, names) in maps.items():
        given = entry.get(key)
        if not ids or not isinstance(given, int | float | str):
            continue
        changed[key] = ids.get(given)
        if changed[key] is None:
            kind = "in images" if key == "image_id" else "of classes"
            who, example = ("annotations lack", names[given]) if given in ids else ("file itself lacks", given)
            lacking.add(f"detections {kind} that the {who}", example)
            return None
    return changed


def _ids(
    entries: Any, field: str, known: Callable[[str], object], texts: Mapping[object, str]
) -> tuple[_Ids, Mapping[object, str]]:
    """How to translate the ids of a list of images or classes, and their names; empty unless every entry has a name.

    Args:
        entries: the list.
        field: that holds the name of an entry.
        known: name -> id in the ground truth.
        texts: id in the ground truth -> the text that the file of the ground truth has for it.
    """
    listed = entries if isinstance(entries, list) else []
    if not all(
        isinstance(one, dict) and isinstance(one.get("id"), int | str) and isinstance(one.get(field), str)
        for one in listed
    ):
        return {}, {}
    names = {one["id"]: one[field] for one in listed}
    found = {number: known(name) for number, name in names.items()}
    return {number: texts.get(own, own) for number, own in found.items()}, names


def _texts(truth: Mapping[str, Any], key: str) -> dict[object, str]:
    """Number -> the text that the file of the ground truth has for it."""
    return {number: text for text, number in truth.get(key, {}).items()}


def _class_of(truth: Mapping[str, Any]) -> Callable[[str], object]:
    """A function from a class name to its id in the ground truth."""
    ids = {name_key(one["name"]): one.get("source_id", one["id"]) for one in truth["categories"]}
    return lambda name: ids.get(name_key(name))


def _image_of(truth: Mapping[str, Any]) -> Callable[[str], object]:
    """A function from a file name to its image id in the ground truth; folders tell files of one name apart."""
    by_name: defaultdict[str, list[tuple[str, object]]] = defaultdict(list)
    for image in truth["images"]:
        plain = _plain(str(image.get("file_name", "")))
        by_name[plain.rpartition("/")[2]].append((f"/{plain}", image["id"]))

    def find(name: str) -> object:
        plain = _plain(name)
        found = by_name[plain.rpartition("/")[2]]
        fitting = [number for path, number in found if f"/{plain}".endswith(path) or path.endswith(f"/{plain}")]
        if len(fitting) != 1:
            fitting = [number for _, number in found]
        return fitting[0] if len(fitting) == 1 else None

    return find


def _plain(name: str) -> str:
    return name_of_file(name).replace("\\", "/")
