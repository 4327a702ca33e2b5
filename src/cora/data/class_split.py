"""Which classes are trained on (base) and which are only ever named at test time (novel)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from cora.data.coco import CocoDataset
from cora.data.problems import listed
from cora.errors import DataError
from cora.names import name_key, names_without, repeated_names, spelled_as

#: Names that `known_split` takes.
KNOWN_SPLITS = ("coco", "lvis")


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Base and novel class names, each in a fixed order; both lists are non-empty unless the split says
    otherwise.

    Attributes:
        base, novel: names.
        benchmark: of a split that papers report on its name, whose image sets commands follow, else "".

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
    """A split that papers report on, by class names as the annotation files have them.

    - coco: OV-COCO (Bansal et al., 2018), 48 base and 17 novel classes; the other 15 of COCO take no part.
    - lvis: OV-LVIS (Gu et al., 2022) on LVIS v1, 866 frequent and common classes as base, 337 rare ones as novel.

    Raises:
        DataError: another name.
    """
    if name not in KNOWN_SPLITS:
        raise DataError(
            f"expected a known class split ({', '.join(KNOWN_SPLITS)}), got {name!r}; write your own as a JSON file"
        )
    content = json.loads(resources.files("cora.data").joinpath(f"splits/{name}.json").read_text(encoding="utf-8"))
    return ClassSplit(base=tuple(content["base"]), novel=tuple(content["novel"]), benchmark=name)


def open_split(source: str | Path) -> ClassSplit:
    """A known split by its name, unless a file has that name, or one from a file, as `read_class_split` reads it.

    Raises:
        DataError: no such file, or it holds no split.
    """
    path = Path(source)
    return known_split(str(source)) if str(source) in KNOWN_SPLITS and not path.exists() else read_class_split(path)


def split_by_names(dataset: CocoDataset, *, novel: Sequence[str]) -> ClassSplit:
    """The classes named are novel, all others of the dataset base, in its order.

    Raises:
        DataError: names that the dataset lacks or given twice, no base class left, or no box of a base class.
    """
    unknown = names_without(novel, dataset.class_names)
    if unknown:
        raise DataError(
            f"expected novel classes of the dataset, got {len(unknown)} it lacks: {listed(unknown)}; "
            f"it has: {listed(dataset.class_names, 10)}"
        )
    spelled = spelled_as(novel, dataset.class_names)
    return _checked(dataset, base=names_without(dataset.class_names, novel), novel=[spelled[name] for name in novel])


def split_by_frequency(dataset: CocoDataset) -> ClassSplit:
    """Rare classes of an LVIS file are novel, frequent and common ones base, in the file's order.

    Raises:
        DataError: classes without a frequency, no base class left, or no box of a base class.
    """
    without = [name for name in dataset.class_names if name not in dataset.frequencies]
    if without:
        raise DataError(
            f"{dataset.annotations}: expected a frequency (f, c or r) of every class as in LVIS, got {len(without)} "
            f"classes without: {listed(without)}; name the novel classes instead"
        )
    rare = [name for name in dataset.class_names if dataset.frequencies[name] == "r"]
    return _checked(dataset, base=[name for name in dataset.class_names if name not in set(rare)], novel=rare)


def _checked(dataset: CocoDataset, *, base: Sequence[str], novel: Sequence[str]) -> ClassSplit:
    if not base:
        raise DataError(
            f"no base class left: all {len(dataset.class_names)} classes of {dataset.annotations} are novel; "
            "leave some to train on"
        )
    counts = dict(zip(dataset.class_names, dataset.class_counts().tolist(), strict=True))
    if not any(counts[name] for name in base):
        raise DataError(
            f"{dataset.annotations}: expected boxes of base classes to train on, got none of {listed(base)}; "
            "choose other novel classes"
        )
    return ClassSplit(base=tuple(base), novel=tuple(novel))


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
