"""Class weights as people write them: factors on the score of classes in anchor pre-matching."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cora.errors import DataError
from cora.files import found_instead
from cora.names import name_key, names_without, repeated_names, spelled_as

_SHOWN_NAMES = 10


def any_weights(given: str | None) -> dict[str, float]:
    """Class name -> weight as in `weights_of_names`, for a vocabulary that is not known yet: any name is valid.

    Raises:
        DataError: as `weights_of_names`.
    """
    if given is None:
        return {}
    if _is_path(given):
        return {name: float(weight) for name, weight in _read(Path(given)).items()}
    return weights_of_names(given, list(dict.fromkeys(part.partition("=")[0].strip() for part in given.split(","))))


def weights_of_names(given: str | None, names: Sequence[str]) -> dict[str, float]:
    """Class name -> weight, from "NAME=WEIGHT,..." or a JSON file; empty where none are given.

    Args:
        given: value of `--class-weights`.
        names: the vocabulary.

    Raises:
        DataError: as `read_class_weights`, or a name has two weights.
    """
    if given is None:
        return {}
    if not names:
        raise DataError("--class-weights: expected names to weight, got a model whose names were fixed; leave it out")
    if _is_path(given):
        return _weights_in_file(Path(given), names)
    spelled = {name_key(name): name for name in names}
    found: dict[str, float] = {}
    for part in given.split(","):
        name, _, weight = part.strip().partition("=")
        known = spelled.get(name_key(name))
        if known is None:
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            shown = ", ".join(names[:_SHOWN_NAMES]) + more
            raise DataError(f"--class-weights: expected NAME=WEIGHT for one of {shown}, or a file, got {part.strip()}")
        if known in found:
            raise DataError(f"--class-weights: expected one weight a class, got two of {known!r}")
        found[known] = _weight(weight.strip())
    return found


def read_class_weights(given: str | None, groups: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Class name -> weight in pre-matching, from a JSON file or "GROUP=WEIGHT"; empty where none are given.

    Args:
        given: value of `--class-weights`.
        groups: group -> its class names.

    Raises:
        DataError: an unknown group, a file that cannot be read, weights that are not above 0, or unknown class names.
    """
    if given is None:
        return {}
    group, separator, weight = given.partition("=")
    if separator and group in groups:
        return dict.fromkeys(groups[group], _weight(weight))
    if not _is_path(given):
        raise DataError(
            f"--class-weights: expected GROUP=WEIGHT for one of the groups {', '.join(groups)}, or a file, got {given}"
        )
    return _weights_in_file(Path(given), {name for members in groups.values() for name in members})


def _is_path(given: str) -> bool:
    """Whether the value of the option is a path; a path may contain "=", too."""
    # os.path.exists, since Path.exists raises for a text that is longer than a file name may be.
    return "=" not in given or os.path.exists(given)


def _weights_in_file(path: Path, names: Collection[str]) -> dict[str, float]:
    content = _read(path)
    unknown = names_without(content, names)
    if unknown:
        raise DataError(
            f"expected weights of the {len(names)} classes, got {len(unknown)} unknown names in {path}: "
            f"{', '.join(unknown[:5])}; remove them"
        )
    spelled = spelled_as(tuple(content), names)
    return {spelled[name]: float(weight) for name, weight in content.items()}


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise DataError(f"--class-weights: expected a weight above 0, got {text!r}")
    return value


def _read(path: Path) -> dict[str, float]:
    try:
        # An object as its pairs: a dictionary would keep the last of two weights of a name.
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=tuple)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"expected NAME=WEIGHT or JSON of class name to weight, cannot read {path}: {found_instead(path, error)}"
        ) from error
    if not isinstance(content, tuple) or not all(isinstance(v, int | float) and 0 < v < 1e6 for _, v in content):
        raise DataError(f'expected JSON of class name to weight above 0 in {path}, such as {{"bus": 8}}')
    if repeated := repeated_names(name for name, _ in content):
        raise DataError(f"--class-weights: expected one weight a class, got two of {repeated[0]!r} in {path}")
    return dict(content)
