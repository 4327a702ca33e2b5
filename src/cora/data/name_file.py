"""Reads class names as people write them: on a command line, or in lists, tables, JSON, data.yaml and label maps."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from cora.data.problems import Findings
from cora.data.yolo_names import read_yaml_names
from cora.errors import CoraError, VocabularyError
from cora.files import HEAD_BYTES, content_of, found_instead, json_fault, not_fetched
from cora.names import names_in
from cora.regions import by_themselves, class_prompts, clean_names, names_alone, written_classes

#: A class name with one of these endings is probably the name of a file.
_SUFFIXES = (".txt", ".json", ".yaml", ".yml", ".names", ".pbtxt", ".csv", ".tsv")

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMMENT = re.compile(r"(?:^|\s)#.*")
_BULLET = re.compile(r"[-*•]\s+(.+)")
#: "1. cat", "1) cat", "(1) cat", "1: cat", "1, cat" or "1 cat".
_NUMBER = re.compile(r"\(?(\d{1,6})(?:\s*[.):,\t]\s*|\s+)(.+)")
#: Start of a name in "0: cat, 1: cup", as Python prints a dictionary of names.
_NUMBERED = re.compile(r"\d+\s*[.):]")
_MARKED_NUMBER = re.compile(r"\(?\d+\s*[.):,\t]")
#: `CLASSES = ("cat", "cup")`, as in a program or a TOML file.
_ASSIGNED = re.compile(r"""\A\s*\w+\s*=\s*[\[(](\s*["'].*)[\])]\s*\Z""", re.DOTALL)
#: Identifiers of WordNet and of Open Images before a name: "n02084071 dog", "/m/011k07,Tortoise".
_IDENTIFIED = re.compile(r"(?:n\d{8}|/[mgt]/\w+)[\s,]+(.+)")
#: Keys of a JSON object that may hold names; the last one occurs in the configuration of a model.
_NAME_KEYS = ("names", "categories", "classes", "class_names", "labels", "id2label")
#: Headings of the column of a table that holds names.
_HEADINGS = frozenset(("name", "names", "class", "class_name", "class name", "classes", "category", "label", "labels"))
_LABEL_MAP = re.compile(r"item\s*\{([^}]*)\}")
_LABEL = re.compile(r"""\b(display_name|name)\s*:\s*["']([^"']*)["']""")


def read_classes(text: str) -> dict[str, tuple[str, ...]]:
    """The classes of `--classes`, each with its prompts: divided by commas, or @FILE with one on each line.

    Raises:
        VocabularyError: the file cannot be read, or the names or prompts cannot be used: none, blank ones, one twice.
    """
    classes = class_prompts(parse_classes(text))
    clean_names(tuple(classes))  # which says that there is none
    return classes


def read_names(text: str, option: str = "--classes") -> tuple[str, ...]:
    """Class names of an option that takes no prompts, written as in `read_classes`.

    Raises:
        VocabularyError: the file cannot be read, the names cannot be used, or some have prompts.
    """
    return clean_names(names_alone(option, parse_classes(text)))


def read_distractors(text: str | None) -> tuple[str, ...] | None:
    """The names of `--distractors` for the predictor: () for 'none'; None, its own choice, where the option is absent.

    Raises:
        VocabularyError: as `read_names`.
    """
    if text is None or text.strip().casefold() == "none":
        return None if text is None else ()
    if not names_in(text):
        raise VocabularyError('--distractors: expected names, or "none" for none, got an empty list')
    return written_classes(by_themselves(read_names(text, "--distractors")))


def parse_classes(text: str) -> list[str]:
    """Names from "cat, remote control" (other dividers: see `names_in`), or from @FILE (see `read_name_file`).

    Raises:
        VocabularyError: the file cannot be read, there is no name in it, or the text is a file's name without @.
    """
    if text.startswith("@"):
        return read_name_file(Path(text[1:].strip()))
    if text.strip().lower().endswith(_SUFFIXES) and os.path.isfile(text.strip()):
        raise VocabularyError(f"expected class names, got the name of a file: {text}; for its names write @{text}")
    if "\n" in text.strip():  # as from "$(cat names.txt)"
        return _of_list(text)
    names = names_in(text)
    if files := [name for name in names if name.startswith("@")]:
        raise VocabularyError(f"expected class names, or one @FILE alone, got {files[0]} among others; write it alone")
    if len(names) > 1 and all(map(_NUMBERED.match, names)):
        names = [name.strip("'\"") for name in _without_marks(names)]
    return names


def read_name_file(path: Path) -> list[str]:
    """The class names of a file.

    Supported are:

    - Text with one name on each line, or several divided as in `names_in`; maybe numbered, maybe with `#` comments.
    - A table, of which the column with a heading such as "name" or "class" is read.
    - JSON: a list, an object of names and numbers, or a COCO file with its categories.
    - A data.yaml with `names`.
    - A label map (pbtxt).

    Raises:
        VocabularyError: the file cannot be read, or there is no name in it.
    """
    path = path.expanduser()
    text = _text(path)
    if path.suffix.lower() in (".yaml", ".yml") or re.match(r"(?:[^\n]*\n)*?names\s*:", text):
        names = _of_yaml(path)
    elif text.lstrip().startswith("{") or (text.lstrip().startswith("[") and path.suffix.lower() == ".json"):
        names = _of_json(path, text)
    elif text.lstrip().startswith("<"):
        raise VocabularyError(f"expected class names, got XML or HTML: {path}; write one name a line")
    elif items := _LABEL_MAP.findall(text):
        names = [_label(item) for item in items]
    else:
        names = (path.suffix.lower() in (".csv", ".tsv") and _of_column(text)) or _of_list(text)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise VocabularyError(f"expected one class name a line, got none in {path}; write some into it")
    return names


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"expected a file of class names, got {found_instead(path, error)}: {path}; check the path"
        ) from None
    if data and (not_there := not_fetched(data[:HEAD_BYTES])):
        raise VocabularyError(f"expected a file of class names, {not_there}: {path}")
    try:
        # PowerShell writes UTF-16 and marks it by the first two bytes.
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
        if "\0" in text:  # UTF-16 without those bytes, or no text at all
            raise VocabularyError(f"expected class names in UTF-8, got zeros in {path}; save it as UTF-8")
        return text
    except UnicodeDecodeError:
        if known := content_of(data[:HEAD_BYTES]):
            raise VocabularyError(f"expected a file of class names, got {known[0]}: {path}; name another") from None
        raise VocabularyError(f"expected class names in UTF-8, got other bytes: {path}; save it as UTF-8") from None


def _of_list(text: str) -> list[str]:
    """The names of a text with one or more on each line."""
    text = _ASSIGNED.sub(r"[\1]", text)
    if text.lstrip().startswith("["):
        return names_in(" ".join(_COMMENT.sub("", line) for line in text.splitlines()))
    lines = [line for raw in text.splitlines() if (line := _COMMENT.sub("", raw).strip())]
    return [name for line in _without_marks(lines) for name in names_in(line)]


def _of_column(text: str) -> list[str]:
    """The names of a table, by the heading of their column; none where no heading is one for names."""
    lines = [line for line in text.splitlines() if line.strip()]
    # Where a country writes numbers with a comma, its tables are divided by semicolons.
    delimiter = next((one for one in "\t;" if lines and one in lines[0]), ",")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter)) if len(lines) > 1 else []
    except csv.Error as error:
        raise VocabularyError(f"expected a table of class names, got {error}; write one name a line") from None
    heads = [head.strip().casefold() for head in rows[0]] if rows else []
    column = next((place for place, head in enumerate(heads) if head in _HEADINGS), None)
    if column is None or any(len(row) != len(heads) for row in rows):
        return []
    return [row[column] for row in rows[1:]]


def _without_marks(lines: list[str]) -> list[str]:
    """Lines without their bullets, numbers or identifiers, if all lines have them and the numbers count up."""
    identified = [_IDENTIFIED.fullmatch(line) for line in lines]
    if all(identified):
        return [found[1] for found in identified if found is not None]
    bullets = [_BULLET.fullmatch(line) for line in lines]
    if all(bullets):
        return [found[1] for found in bullets if found is not None]
    numbered = [_NUMBER.fullmatch(line) for line in lines]
    numbers = [int(found[1]) for found in numbered if found is not None]
    counts_up = len(numbers) == len(lines) and all(b == a + 1 for a, b in pairwise(numbers))
    # "7 up" alone may be a name, and so may "1 cent" and "2 euro"; "1. cat" is none, nor are lines that count from 0.
    marked = all(map(_MARKED_NUMBER.match, lines))
    names = [found[2] for found in numbered if found is not None]
    counted = len(lines) > 2 or (len(lines) == 2 and numbers[:1] == [0])
    if counts_up and (marked or (counted and len(set(names)) == len(names))):
        return names
    return lines


def _of_yaml(path: Path) -> list[str]:
    findings = Findings()
    try:
        names = read_yaml_names(path, findings)
    except CoraError as error:
        raise VocabularyError(str(error)) from None
    if findings.faults:
        raise VocabularyError(f"{path}: {findings.faults}; mend the file")
    return list(names.names.values())


def _of_json(path: Path, text: str) -> list[str]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: expected a list of class names, got {json_fault(error)}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in _NAME_KEYS if key in content), content)
    if isinstance(content, dict):
        content = _in_order(content)
    if isinstance(content, list):
        names = [entry.get("name") if isinstance(entry, dict) else entry for entry in content]
        if all(isinstance(name, str) for name in names):
            return [str(name) for name in names]
    raise VocabularyError(f'{path}: expected a JSON list of class names, got something else; write ["cat", "dog"]')


def _in_order(content: dict[str, Any]) -> list[Any] | None:
    """The names of {"0": "cat"} or {"cat": 0} in the order of the numbers; None for another object."""
    if all(key.isdecimal() for key in content):
        return [content[key] for key in sorted(content, key=lambda key: (len(key.lstrip("0")), key.lstrip("0")))]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in content.values()):
        return sorted(content, key=lambda name: content[name])
    return None


def _label(item: str) -> str:
    """The name of an entry of a label map; the display name, if any, since `name` may be an identifier."""
    found: dict[str, str] = dict(_LABEL.findall(item))
    return found.get("display_name") or found.get("name", "")
