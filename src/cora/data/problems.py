"""Counts of the problems of annotation files by kind, and checks for reading files that cannot be trusted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from cora.errors import DataError
from cora.files import HEAD_BYTES, content_of, found_instead, json_fault, not_fetched

#: Greatest length of an example in a message, so that no file can fill the screen.
EXAMPLE_LENGTH = 240
#: Greatest number that is valid as a coordinate, a side or an id; it also keeps conversions to float finite.
GREATEST = 2**53

#: Plural -> singular of the words that `Problems` counts; `of_kind` changes the first of them in a kind.
_SINGULARS = {
    "annotations": "annotation",
    "boxes": "box",
    "captions": "caption",
    "categories": "category",
    "classes": "class",
    "detections": "detection",
    "entries": "entry",
    "files": "file",
    "folders": "folder",
    "ids": "id",
    "images": "image",
    "lines": "line",
    "members": "member",
    "names": "name",
    "numbers": "number",
    "objects": "object",
    "results": "result",
    "scores": "score",
    "tags": "tag",
    "values": "value",
    "videos": "video",
}
#: Plural -> singular of the words after it.
_FOLLOWING = {
    "no numbers": "no number",
    "no whole numbers": "no whole number",
    "neither whole numbers nor texts": "neither a whole number nor a text",
    "no lists": "no list",
    "no objects": "no object",
    "no plain files": "no plain file",
    "that are": "that is",
    "that share": "that shares",
    "that leave": "that leaves",
    "that only group": "that only groups",
    "that do": "that does",
    "do not": "does not",
    "than their": "than its",
    "given that of their": "given that of its",
    "outside their": "outside its",
}


@dataclass
class Problems:
    """Problems counted by kind, with the first example of each, so that one message says how bad a file is.

    Attributes:
        counts: kind -> number of problems.
        examples: kind -> text of the first one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: object) -> None:
        """Count one problem; `kind` is a phrase that can follow a number above 1, with a word of `_SINGULARS` in it."""
        self.counts[kind] += 1
        if kind not in self.examples:
            self.examples[kind] = shown(example)

    def update(self, others: Problems) -> None:
        """Add the counts of others."""
        self.counts.update(others.counts)
        self.examples = {**others.examples, **self.examples}

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(f"{of_kind(n, kind)} (first: {self.examples[kind]})" for kind, n in self.counts.items())


def of_kind(count: int, kind: str) -> str:
    """A count with its kind, in the singular for one: "1 image that cannot be read", "2 images that cannot be read"."""
    if count != 1:
        return f"{count} {kind}"
    noun = re.search(rf"\b({'|'.join(_SINGULARS)})\b", kind)
    if noun is not None:
        kind = kind[: noun.start()] + _SINGULARS[noun[0]] + kind[noun.end() :]
    for plural, singular in _FOLLOWING.items():
        kind = re.sub(rf"\b{plural}\b", singular, kind)
    return f"1 {kind}"


@dataclass
class Findings:
    """The problems that a reader of annotations found.

    Attributes:
        faults: problems of the set as a whole, such as its classes; skipping entries does not remove them.
        bad: unusable images, boxes or lines, which can be skipped. One with two faults counts under both.
        lost: usable boxes of images that are skipped.
        repairs: problems that were repaired.
    """

    faults: Problems = field(default_factory=Problems)
    bad: Problems = field(default_factory=Problems)
    lost: Problems = field(default_factory=Problems)
    repairs: Problems = field(default_factory=Problems)


def check_folder(folder: Path) -> None:
    """Raise DataError unless `folder` is a folder; the message calls it a folder of images."""
    if not folder.is_dir():
        found = f"a file: {folder}" if folder.exists() else f"no folder at {folder}"
        raise DataError(f"expected a folder of images, got {found}; check the path")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite int or float of at most `GREATEST`; True and False are no numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= GREATEST


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is an int of at most `GREATEST`, as ids have to be."""
    return isinstance(value, int) and is_number(value)


def is_box(value: object) -> TypeGuard[list[float]]:
    """Whether `value` is a list of four numbers, as `is_number` defines them."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def read_text(path: Path, *, max_bytes: int, expected: str) -> str:
    """The UTF-8 text of a file of at most `max_bytes` bytes.

    Raises:
        DataError: there is no such file, it cannot be read, is larger, or is no UTF-8. The message calls the file that
            should be there `expected`.
    """
    if path.is_dir():
        raise DataError(f"expected {with_article(expected)}, got a folder: {path}; name a file in it")
    if not path.is_file():
        raise DataError(f"no {expected} at {path}; check the path")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(
                f"{path}: expected {with_article(expected)} of at most {max_bytes} bytes, got {size}; split the set"
            )
        content = path.read_bytes()
        # An empty file may be meant, as of labels of an image without an object.
        if content and (not_there := not_fetched(content[:HEAD_BYTES])):
            raise DataError(f"{path}: expected {with_article(expected)}, {not_there}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: expected {with_article(expected)}, got {found_instead(path, error)}") from error
    except UnicodeDecodeError as error:
        wanted, known = with_article(expected), content_of(content[:HEAD_BYTES])
        if known is not None:
            raise DataError(f"{path}: expected {wanted}, got {known[0]}; name another file") from error
        raise DataError(f"{path}: expected {wanted} in UTF-8, got other bytes; save it as UTF-8") from error


def with_article(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def parse_json(text: str, path: Path, expected: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file, parsed from its text.

    Raises:
        DataError: the text is no JSON. The message calls what should be there `expected`.
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected {expected}, got {json_fault(error)}; mend it or get it again") from error


def truth_value(value: object) -> bool | None:
    """The truth value of 0, 1, false, true or one of these as text; False for an absent one, None for anything else."""
    text = "" if value is None else str(value).strip().casefold()
    if text in ("", "0", "0.0", "false", "no"):
        return False
    return True if text in ("1", "1.0", "true", "yes") else None


def check_names(names: Sequence[str], faults: Problems) -> None:
    """Count blank class names."""
    for name in names:
        if not name.strip():
            faults.add("blank class names", repr(name))


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first `most` names for a message, and the number of further ones."""
    names = list(names)
    first = ", ".join(map(shown, names[:most]))
    return f"{first} and {len(names) - most} more" if len(names) > most else first


def shown(value: object) -> str:
    """A value of a file for a message: one short line without control characters."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(value)[: 2 * EXAMPLE_LENGTH].split()))
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}..."
