"""Synonyms of class names, which test whether a detector understands names or has learned a fixed list.

The shipped file `data/coco_synonyms.json` maps COCO class names to everyday words for things that look the same (couch
-> sofa, cat -> kitten). For the test to be fair, the words must not occur among the class names of the training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cora.errors import DataError
from cora.files import found_instead, json_fault, shipped_text
from cora.names import name_key, names_in, repeated_names
from cora.regions import ClassPrompts, class_prompts

SHIPPED = "coco"
_FORM = 'such as {"couch": "sofa"}, or {"couch": ["sofa", "settee"]} for several'


def load_synonyms() -> dict[str, str]:
    """The shipped list: class name -> its one synonym."""
    return {name: others[0] for name, others in read_synonyms(SHIPPED).items()}


def read_synonyms(source: str | Path) -> dict[str, tuple[str, ...]]:
    """Read class name -> synonyms.

    Args:
        source: "coco" for the shipped file, else a JSON file with an object of class name to synonyms. These are a
            text, divided as in `--classes`, or a list.

    Raises:
        DataError: the file is missing, is no JSON, or is no such object.
    """
    if source == SHIPPED:
        text = shipped_text("evaluation/data/coco_synonyms.json")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            found = found_instead(Path(source), error)
            raise DataError(f"expected a JSON file of synonyms, got {found}: {source}; check the path") from error
    try:
        synonyms = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        found = json_fault(error)
        raise DataError(f"{source}: expected a JSON object of plain name to synonym, got {found}") from error
    if not isinstance(synonyms, dict):
        raise DataError(f"expected a JSON object of plain name to synonym in {source}, {_FORM}")
    return {name: _names(name, given, source) for name, given in synonyms.items()}


def _names(plain: str, given: object, source: str | Path) -> tuple[str, ...]:
    found = names_in(given) if isinstance(given, str) else given
    if isinstance(found, list) and found and all(isinstance(name, str) and name.strip() for name in found):
        return tuple(found)
    raise DataError(
        f"expected a JSON object of plain name to synonym in {source}, {_FORM}, got {json.dumps(given)} for {plain!r}"
    )


def rename(names: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> tuple[ClassPrompts, list[str]]:
    """Replace the class names that have synonyms; the order stays.

    Returns:
        The new names with their prompts, and the old names that changed. A class with several synonyms has the first as
        its name and all of them as its prompts.

    Raises:
        DataError: no name changes, or two classes have one name afterwards.
        VocabularyError: a synonym is given twice.
    """
    by_key = {name_key(name): tuple(others) for name, others in synonyms.items()}
    renamed = [by_key.get(name_key(name), (name,)) for name in names]
    changed = [name for name, new in zip(names, renamed, strict=True) if set(map(name_key, new)) != {name_key(name)}]
    if not changed:
        raise DataError(
            f"expected synonyms for some of the {len(names)} classes, got none in {len(synonyms)} entries; "
            "the keys must be class names of the annotation file"
        )
    each = [name for new in renamed for name in {name_key(one): one for one in new}.values()]
    clashes = sorted(set(repeated_names(each)))
    if clashes:
        raise DataError(
            f"expected different names after renaming, got {len(clashes)} used twice: "
            f"{', '.join(clashes[:5])}; choose other synonyms"
        )
    return class_prompts({new[0]: new for new in renamed}), changed
