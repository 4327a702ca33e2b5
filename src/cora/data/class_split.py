"""Which classes are trained on (base) and which are only ever named at test time (novel)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cora.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Base and novel class names, each in a fixed order; both lists are non-empty unless the split says
    otherwise.

    Raises:
        DataError: a name is blank, appears twice, or belongs to both parts; or there is no base class.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.base:
            raise DataError("a class split needs at least one base class, got none")
        blank = sum(not name.strip() for name in self.all)
        if blank:
            raise DataError(f"a class split needs non-blank names, got {blank} blank; remove them")
        repeated = sorted(name for name, n in Counter(self.all).items() if n > 1)
        if repeated:
            raise DataError(
                f"every class belongs once to base or novel, got {len(repeated)} repeated: {', '.join(repeated[:5])}"
            )

    @property
    def all(self) -> tuple[str, ...]:
        """Base, then novel names: the vocabulary that a split is evaluated on."""
        return self.base + self.novel


def read_class_split(path: Path) -> ClassSplit:
    """Read ``{"base": [names], "novel": [names]}``.

    Raises:
        DataError: the file is missing, not JSON, of another form, or names classes twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no class split at {path}; expected a JSON file with the lists base and novel") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); expected the lists base and novel") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with the lists base and novel, got {type(content).__name__}")
    return ClassSplit(base=_names(content, "base", path), novel=_names(content, "novel", path))


def _names(content: dict[str, object], part: str, path: Path) -> tuple[str, ...]:
    names = content.get(part)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: expected {part} to be a list of names, got {type(names).__name__}")
    return tuple(names)
