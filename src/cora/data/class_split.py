"""Which classes are trained on (base) and which are only ever named at test time (novel)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cora.errors import DataError
from cora.files import found_instead, json_kind, shipped_text
from cora.names import name_key, repeated_names

#: Names that `known_split` takes.
KNOWN_SPLITS = ("coco", "lvis")


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Base and novel class names, each in a fixed order; there may be no novel ones.

    Attributes:
        base: names of the base classes.
        novel: names of the novel classes.
        benchmark: "coco" or "lvis" for the split of a published benchmark, which also decides which images take part;
            otherwise "".

    Raises:
        DataError: a name is blank, appears twice, or belongs to both parts; or there is no base class.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
    benchmark: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.base:
            raise DataError("a class split needs at least one base class, got none")
        blank = sum(not name_key(name) for name in self.all)
        if blank:
            raise DataError(f"a class split needs non-blank names, got {blank} blank; remove them")
        repeated = sorted(repeated_names(self.all))
        if repeated:
            raise DataError(
                f"every class belongs once to base or novel, got {len(repeated)} repeated: {', '.join(repeated[:5])}"
            )

    @property
    def all(self) -> tuple[str, ...]:
        """Base, then novel names: the vocabulary that a split is evaluated on."""
        return self.base + self.novel


def known_split(name: str) -> ClassSplit:
    """The split of a published benchmark, its class names as the annotation files spell them.

    - coco: OV-COCO (Bansal et al., 2018), 48 base and 17 novel classes; the other 15 of COCO take no part.
    - lvis: OV-LVIS (Gu et al., 2022) on LVIS v1, 866 frequent and common classes as base, 337 rare ones as novel.

    Raises:
        DataError: there is no such benchmark.
    """
    if name not in KNOWN_SPLITS:
        raise DataError(
            f"expected a known class split ({', '.join(KNOWN_SPLITS)}), got {name!r}; write your own as a JSON file"
        )
    content = json.loads(shipped_text(f"data/splits/{name}.json"))
    return ClassSplit(base=tuple(content["base"]), novel=tuple(content["novel"]), benchmark=name)


def open_split(source: str | Path) -> ClassSplit:
    """The split of a file (`read_class_split`) or, where no file has that name, of a benchmark (`known_split`).

    Raises:
        DataError: no such file, or it holds no split.
    """
    path = Path(source)
    return known_split(str(source)) if str(source) in KNOWN_SPLITS and not path.is_file() else read_class_split(path)


def read_class_split(path: Path) -> ClassSplit:
    """Read ``{"base": [names], "novel": [names]}``.

    Raises:
        DataError: the file is missing, not JSON, of another form, or names classes twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"no class split at {path}; expected a JSON file with the lists base and novel") from error
    except (OSError, ValueError, RecursionError) as error:
        found = found_instead(path, error)
        raise DataError(f"{path}: expected JSON with the lists base and novel, got {found}; check the path") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with the lists base and novel, got {json_kind(content)}")
    return ClassSplit(base=_names(content, "base", path), novel=_names(content, "novel", path))


def _names(content: dict[str, object], part: str, path: Path) -> tuple[str, ...]:
    names = content.get(part)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        found = "other values in it" if isinstance(names, list) else json_kind(names)
        raise DataError(f"{path}: expected {part} to be a list of names, got {found}; is it a class split?")
    return tuple(names)
