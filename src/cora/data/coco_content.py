"""The content of a COCO file, normalised.

Ids become whole numbers, an object that has only an outline gets the box around it, and a class has one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cora.data.outlines import box_of_outline
from cora.data.problems import Problems, is_whole, parse_json, read_text
from cora.errors import DataError
from cora.names import name_key

#: LVIS v1 has 1.1 GB, the largest public sets twice that.
MAX_JSON_BYTES = 4 * 2**30

#: Lists that every COCO file has.
LISTS = ("images", "annotations", "categories")
#: Keys of an LVIS image that hold lists of category ids.
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

#: Marks an annotation, while the file is read, whose box was computed from its outline.
_OUTLINED = "box of its outline"
#: Values of `supercategory` that mean that a category has no parent.
_NO_PARENT = ("", "none", "null")


class CocoContent(dict[str, Any]):
    """The object of a COCO file.

    Attributes:
        repairs: what was normalised, counted by kind.
        image_numbers: image id of the file, as text -> number; empty where all ids are whole numbers already.
        category_numbers: the same for category ids.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.repairs = Problems()
        self.image_numbers: dict[str, int] = {}
        self.category_numbers: dict[str, int] = {}


@dataclass(frozen=True)
class Classes:
    """The usable classes of a file.

    Attributes:
        names: id -> name. Classes whose names differ only in case and blanks share the name of the first of them.
        unused_parents: names of categories that have no box and only group others. They are no classes unless the
            caller asks for them.
        merged: id of a class that repeats the name of another -> id of the first class of that name.
    """

    names: dict[int, str]
    unused_parents: frozenset[str] = frozenset()
    merged: dict[int, int] = field(default_factory=dict)


def read_json(path: Path) -> CocoContent:
    """The content of a COCO or LVIS file.

    Masks are dropped during parsing to save memory. An annotation without a box first gets the box around its mask.

    Raises:
        DataError: there is no such file, it is too large, is no JSON, or lacks one of the three lists.
    """
    text = read_text(path, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    content = parse_json(text, path, "a COCO annotation file", object_hook=_without_mask)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in LISTS):
        raise DataError(f"{path}: expected a COCO object with the lists {', '.join(LISTS)}")
    coco = CocoContent(content)
    for position, entry in enumerate(coco["annotations"]):
        if isinstance(entry, dict) and entry.pop(_OUTLINED, False):
            coco.repairs.add("objects without a box, given that of their outline", f"entry {position}")
    _number_ids(coco)
    return coco


def classes_of(entries: Sequence[Any], annotations: Sequence[Any], faults: Problems, repairs: Problems) -> Classes:
    """The classes of a file's categories; unusable categories are counted in `faults`."""
    found: dict[int, tuple[str, str]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            faults.add("categories without id or name", f"entry {position}")
        elif entry["id"] in found:
            faults.add("duplicate category ids", entry["id"])
        elif not entry["name"].strip():
            faults.add("blank class names", repr(entry["name"]))
        else:
            found[entry["id"]] = entry["name"].strip(), name_key(str(entry.get("supercategory") or ""))
    ids = (entry.get("category_id") for entry in annotations if isinstance(entry, dict))
    used = {number for number in ids if is_whole(number)}
    parents = _unused_parents(found, used) if used else []
    kept = {name_key(name) for number, (name, _) in found.items() if number not in parents}
    for number in parents:
        name = found[number][0]
        repairs.add("classes without a box that only group others, left out", name)
        if name_key(name) in kept:
            del found[number]
    names, merged = merge_names({number: name for number, (name, _) in found.items()}, repairs)
    return Classes(names, frozenset(found[number][0] for number in parents if number in found), merged)


def merge_names(names: Mapping[int, str], repairs: Problems) -> tuple[dict[int, str], dict[int, int]]:
    """Give classes whose names differ only in case and blanks the same name, that of the first of them.

    Returns:
        Number -> name for all classes, and number -> number of the first for the classes that were merged into another.
    """
    first: dict[str, int] = {}
    merged: dict[int, int] = {}
    for number, name in names.items():
        other = first.setdefault(name_key(name), number)
        if other != number:
            merged[number] = other
            example = f"{name!r} and {names[other]!r}"
            repairs.add("classes named like another but for case and blanks, merged into it", example)
    return {number: names[merged.get(number, number)] for number in names}, merged


def whole_id(value: object, numbers: Mapping[str, int]) -> int | None:
    """An id as a whole number: the one that `numbers` gives its text, else the id itself; None for an unusable id."""
    key = _key(value)
    if key is None:
        return None
    return numbers[key] if key in numbers else value if isinstance(value, int) else None


def _without_mask(entry: dict[str, Any]) -> dict[str, Any]:
    # Polygons are nine tenths of a large file and as Python lists several times its size.
    if "segmentation" in entry:
        outline = entry.pop("segmentation")
        bbox = entry.get("bbox")
        if (not bbox or bbox == [0, 0, 0, 0]) and (box := box_of_outline(outline)) is not None:
            entry["bbox"] = list(box)
            entry[_OUTLINED] = True
    return entry


def _number_ids(content: CocoContent) -> None:
    """Replace ids that are texts or floats by whole numbers, in all three lists."""
    annotations = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    for part, reference, kind in (("images", "image_id", "image ids"), ("categories", "category_id", "category ids")):
        entries = [entry for entry in content[part] if isinstance(entry, dict)]
        if all(type(entry.get("id")) is int for entry in entries) and not any(
            isinstance(entry.get(reference), str | float) for entry in annotations
        ):
            continue
        numbers = _numbers_of_ids(entry.get("id") for entry in entries)
        if part == "images":
            content.image_numbers = numbers
        else:
            content.category_numbers = numbers
        for entry in entries:
            if not is_whole(entry.get("id")) and (number := whole_id(entry.get("id"), numbers)) is not None:
                content.repairs.add(f"{kind} that are no whole numbers, numbered", repr(entry["id"]))
                entry["id"] = number
        for entry in annotations:
            if (number := whole_id(entry.get(reference), numbers)) is not None:
                entry[reference] = number
    for entry in content["images"]:
        if isinstance(entry, dict) and content.category_numbers:
            for key in FEDERATED:
                if isinstance(entry.get(key), list):
                    numbered = (whole_id(value, content.category_numbers) for value in entry[key])
                    entry[key] = [old if new is None else new for old, new in zip(entry[key], numbered, strict=True)]


def _numbers_of_ids(ids: Iterable[object]) -> dict[str, int]:
    """Text of an id -> number: the number that the text spells, else the next free one."""
    keys = [key for key in dict.fromkeys(map(_key, ids)) if key is not None]
    spelled = [int(key) for key in keys if _spells_number(key)]
    if len(set(spelled)) == len(keys):
        return dict(zip(keys, spelled, strict=True))
    # Texts like 007 and 7 are two ids, and only the second keeps its number.
    numbers = {key: int(key) for key in keys if _spells_number(key) and str(int(key)) == key}
    taken, next_number = set(numbers.values()), 1
    for key in keys:
        if key not in numbers:
            while next_number in taken:
                next_number += 1
            numbers[key] = next_number
            taken.add(next_number)
    return numbers


def _key(value: object) -> str | None:
    """The text of an id, the same for 3, 3.0 and "3"; None for what cannot be an id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and is_whole(int(value)) else None
    return str(value) if isinstance(value, str) or is_whole(value) else None


def _spells_number(key: str) -> bool:
    return key.isascii() and key.removeprefix("-").isdecimal() and is_whole(int(key[:30]))


def _unused_parents(found: Mapping[int, tuple[str, str]], used: set[int]) -> list[int]:
    """Ids of categories that have no box and only group others, as Roboflow writes them.

    Such a category is the supercategory of others. Its own supercategory is none, itself, or such a category.

    Args:
        found: id -> name and normalised supercategory.
        used: ids of categories that have a box.
    """
    parents: dict[int, str] = {}
    while more := {
        number: name_key(name)
        for number, (name, parent) in found.items()
        if number not in used
        and number not in parents
        and parent in (*_NO_PARENT, name_key(name), *parents.values())
        and any(other != number and of == name_key(name) for other, (_, of) in found.items())
    }:
        parents |= more
    return list(parents)
