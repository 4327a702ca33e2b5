"""The content of a COCO file, brought into one form.

Ids are whole numbers, every object that has an outline has a box, a class has one name.
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

#: What has to be there.
LISTS = ("images", "annotations", "categories")

_OUTLINED = "box of its outline"
#: What stands in for a parent where there is none.
_NO_PARENT = ("", "none", "null")


class CocoContent(dict[str, Any]):
    """The object of a COCO file.

    Attributes:
        repairs: what was brought into another form, counted.
        image_numbers: id of the file as text -> number, where the file's ids are texts.
        category_numbers: likewise.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.repairs = Problems()
        self.image_numbers: dict[str, int] = {}
        self.category_numbers: dict[str, int] = {}


@dataclass(frozen=True)
class Classes:
    """Classes of a file.

    Attributes:
        names: id -> name; ids of names that differ in case or blanks only have the same name.
        unused_parents: names that group others and have no box: no classes unless they are asked for.
        merged: id -> id of the class of the same name that comes first.
    """

    names: dict[int, str]
    unused_parents: frozenset[str] = frozenset()
    merged: dict[int, int] = field(default_factory=dict)


def read_json(path: Path) -> CocoContent:
    """The content of a COCO or LVIS file.

    Masks are dropped while it is read, after their boxes are taken where there are no others.

    Raises:
        DataError: no such file, too large, no JSON, or without one of the three lists.
    """
    text = read_text(path, max_bytes=MAX_JSON_BYTES, expected="annotation file")
    content = parse_json(text, path, "a COCO annotation file", object_hook=_without_mask)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in LISTS):
        raise DataError(f"{path}: expected a COCO object with the lists {', '.join(LISTS)}")
    answer = CocoContent(content)
    for position, entry in enumerate(answer["annotations"]):
        if isinstance(entry, dict) and entry.pop(_OUTLINED, False):
            answer.repairs.add("objects without a box, given that of their outline", f"entry {position}")
    _number(answer)
    return answer


def classes_of(entries: Sequence[Any], annotations: Sequence[Any], faults: Problems, repairs: Problems) -> Classes:
    """The classes of a file's categories; those that cannot be used are counted in `faults`."""
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
    used = {int(number) for number in ids if number is not None and is_whole(number)}
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
    """Number -> name where names of one normal form become the first of them; and number -> the first's number."""
    first: dict[str, int] = {}
    merged: dict[int, int] = {}
    for number, name in names.items():
        other = first.setdefault(name_key(name), number)
        if other != number:
            merged[number] = other
            told = f"{name!r} and {names[other]!r}"
            repairs.add("classes named like another but for case and blanks, merged into it", told)
    return {number: names[merged.get(number, number)] for number in names}, merged


def whole_id(value: object, numbers: Mapping[str, int]) -> int | None:
    """An id as a number: its own, or that which `numbers` has for its text; None if it is none."""
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


def _number(content: CocoContent) -> None:
    """Put numbers in place of ids that are texts, in all three lists."""
    for part, key, of_boxes, what in (
        ("images", "id", "image_id", "image ids"),
        ("categories", "id", "category_id", "category ids"),
    ):
        entries = [entry for entry in content[part] if isinstance(entry, dict)]
        if all(type(entry.get(key)) is int for entry in entries):
            given = {entry[key] for entry in entries}
            odd = (entry.get(of_boxes) for entry in content["annotations"] if isinstance(entry, dict))
            if all(not isinstance(value, str | float) or value in given for value in odd):
                continue
        numbers = _numbers(entry.get(key) for entry in entries)
        if part == "images":
            content.image_numbers = numbers
        else:
            content.category_numbers = numbers
        for entry in entries:
            if not is_whole(entry.get(key)) and (number := whole_id(entry.get(key), numbers)) is not None:
                content.repairs.add(f"{what} that are no whole numbers, numbered", repr(entry[key]))
                entry[key] = number
        for entry in content["annotations"]:
            if isinstance(entry, dict) and (number := whole_id(entry.get(of_boxes), numbers)) is not None:
                entry[of_boxes] = number
    for entry in content["images"]:
        if isinstance(entry, dict) and content.category_numbers:
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                if isinstance(entry.get(key), list):
                    numbered = (whole_id(value, content.category_numbers) for value in entry[key])
                    entry[key] = [old if new is None else new for old, new in zip(entry[key], numbered, strict=True)]


def _numbers(ids: Iterable[object]) -> dict[str, int]:
    """Text of an id -> number: that which it says, else the next that is free."""
    keys = [key for key in dict.fromkeys(map(_key, ids)) if key is not None]
    said = [int(key) for key in keys if _says_number(key)]
    if len(set(said)) == len(keys):
        return dict(zip(keys, said, strict=True))
    # Texts like 007 and 7 are two ids.
    numbers = {key: int(key) for key in keys if _says_number(key) and str(int(key)) == key}
    taken, next_number = set(numbers.values()), 1
    for key in keys:
        if key not in numbers:
            while next_number in taken:
                next_number += 1
            numbers[key] = next_number
            taken.add(next_number)
    return numbers


def _key(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and is_whole(int(value)) else None
    return str(value) if isinstance(value, str) or is_whole(value) else None


def _says_number(key: str) -> bool:
    return key.isascii() and key.removeprefix("-").isdecimal() and is_whole(int(key[:30]))


def _unused_parents(found: Mapping[int, tuple[str, str]], used: set[int]) -> list[int]:
    """Categories without a box that others name as theirs, and that belong to no class: Roboflow writes them."""
    parents: dict[int, str] = {}
    for _ in found:
        more = {
            number: name_key(name)
            for number, (name, parent) in found.items()
            if number not in used
            and number not in parents
            and parent in (*_NO_PARENT, name_key(name), *parents.values())
            and any(other != number and of == name_key(name) for other, (_, of) in found.items())
        }
        if not more:
            break
        parents |= more
    return list(parents)
