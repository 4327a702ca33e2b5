"""Synonyms of class names: a test of whether a detector understands names or has learned a fixed list.

The shipped file `data/coco_synonyms.json` maps COCO class names to one everyday word of the same look (couch
-> sofa, cat -> kitten). A model that claims open vocabulary must not have seen those words in training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from cora.errors import DataError
from cora.names import name_key, repeated_names

SHIPPED = "coco"


def load_synonyms(source: str | Path = SHIPPED) -> dict[str, str]:
    """Read plain name -> synonym: the shipped COCO file for "coco", else a JSON file.

    Raises: DataError when the file is missing, not JSON, or not an object of text to text.
    """
    if source == SHIPPED:
        text = resources.files("cora.evaluation").joinpath("data/coco_synonyms.json").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected a JSON file of synonyms, cannot read {source}: {error}") from error
    try:
        synonyms = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"expected a JSON object of plain name to synonym in {source}, got bad JSON: {error}"
        ) from error
    if not isinstance(synonyms, dict) or not all(isinstance(v, str) and v.strip() for v in synonyms.values()):
        raise DataError(f'expected a JSON object of plain name to synonym in {source}, such as {{"couch": "sofa"}}')
    return {str(name): str(other) for name, other in synonyms.items()}


def rename(names: Sequence[str], synonyms: dict[str, str]) -> tuple[list[str], list[str]]:
    """Replace the names that have a synonym; the order stays.

    Returns: all names after the replacement, and those plain names that changed.
    Raises: DataError when no name changes, or when two classes end up with one name.
    """
    by_key = {name_key(name): other for name, other in synonyms.items()}
    renamed = [by_key.get(name_key(name), name) for name in names]
    changed = [name for name, other in zip(names, renamed, strict=True) if name_key(other) != name_key(name)]
    if not changed:
        raise DataError(
            f"expected synonyms for some of the {len(names)} classes, got none in {len(synonyms)} entries; "
            "the keys must be class names of the annotation file"
        )
    clashes = sorted(set(repeated_names(renamed)))
    if clashes:
        raise DataError(
            f"expected different names after renaming, got {len(clashes)} used twice: "
            f"{', '.join(clashes[:5])}; choose other synonyms"
        )
    return renamed, changed
