"""One normal form of class names: `coffee_cup`, "coffee  cup" and "Coffee cup" are one class.

Annotation files write underscores for blanks (LVIS: `bow_(decorative_ribbons)`); a text tower has learned words. People
get names back as they wrote them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def spoken_name(name: str) -> str:
    """A name as the text tower reads it: blanks for underscores, single, none at the ends; the rest as it is."""
    return " ".join(name.replace("_", " ").split())


def name_key(name: str) -> str:
    """What names of one class have in common: the spoken form in one case."""
    return spoken_name(name).casefold()


def repeated_names(names: Iterable[str]) -> list[str]:
    """The names of classes that are named more than once, in order; empty where all are different."""
    names = list(names)
    counts = Counter(map(name_key, names))
    return [name for name in dict.fromkeys(names) if counts[name_key(name)] > 1]


def names_without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names of classes that none of the others names."""
    known = set(map(name_key, others))
    return [name for name in names if name_key(name) not in known]


def spelled_as(names: Sequence[str], among: Iterable[str]) -> dict[str, str]:
    """Name -> its spelling among others, for those that are there; the same spelling comes first."""
    among = list(among)
    by_key: dict[str, str] = {}
    for name in among:
        by_key.setdefault(name_key(name), name)
    exact = set(among)
    return {
        name: name if name in exact else by_key[name_key(name)]
        for name in names
        if name in exact or name_key(name) in by_key
    }
