"""Numbered class names: a data.yaml, or a list with one name on each line (classes.txt)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cora.data.problems import Findings, read_text, shown
from cora.errors import DataError

MAX_NAMES_BYTES = 2**20

#: Files of class names that are looked for.
NAMES_FILES = ("data.yaml", "data.yml", "classes.txt")


@dataclass(frozen=True)
class NumberedNames:
    """Class names by the index that label files use.

    Attributes:
        names: class index -> name.
        pose: whether key points follow the box on every line of a label file.
    """

    names: dict[int, str]
    pose: bool = False


def find_names(*folders: Path) -> Path | None:
    """The first existing data.yaml, data.yml or classes.txt in these folders."""
    return next((f / name for f in folders for name in NAMES_FILES if (f / name).is_file()), None)


def read_numbered_names(path: Path, findings: Findings) -> NumberedNames:
    """The names of a data.yaml or of a list; unusable names are counted in `findings`.

    Raises:
        DataError: the file cannot be read, or has no names.
    """
    return read_yaml_names(path, findings) if path.suffix.lower() in (".yaml", ".yml") else _read_list(path)


def read_yaml_names(path: Path, findings: Findings) -> NumberedNames:
    """The names of a YAML file, a list or a mapping of numbers to names.

    Raises:
        DataError: the file cannot be read, or has no names.
    """
    import yaml  # type: ignore[import-untyped]  # lazily, since only this format needs it

    text = read_text(path, max_bytes=MAX_NAMES_BYTES, expected="YAML file with class names")
    try:
        # The base loader makes only texts, lists and mappings: no other objects are built, and `no` stays a name.
        content: Any = yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as YAML ({shown(error)}); expected names: [...]") from error
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list | dict) or not names:
        got = f"an empty {type(names).__name__}" if isinstance(names, list | dict) else type(names).__name__
        raise DataError(f"{path}: expected class names under names, got {got}; write names: [cat, dog]")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    numbered: dict[int, str] = {}
    for key, name in names.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 9 else None
        if number is None or number in numbered or not isinstance(name, str):
            findings.faults.add("names that are not a whole number and a text", key)
        else:
            numbered[number] = name.strip()
    count = content.get("nc")
    if count is not None and str(count) != str(len(names)):
        findings.faults.add("numbers of classes (nc) unlike the names", f"{count} for {len(names)} names")
    return NumberedNames(dict(sorted(numbered.items())), pose="kpt_shape" in content)


def _read_list(path: Path) -> NumberedNames:
    text = read_text(path, max_bytes=MAX_NAMES_BYTES, expected="list of class names")
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path}: expected one class name a line, got none; write some into it")
    return NumberedNames(dict(enumerate(names)))
