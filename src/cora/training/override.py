"""Replaces fields of a recipe by settings such as "localizer.epochs=3", and checks their types."""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from itertools import groupby
from types import UnionType
from typing import Any, Literal

from cora.errors import DataError, TrainingError

Settings = typing.TypeVar("Settings")


def override(recipe: Settings, settings: Sequence[str]) -> Settings:
    """Copy a recipe, or another frozen dataclass, with settings such as "localizer.epochs=3" or "relabel=None".

    Args:
        recipe: is not changed.
        settings: "key=value" each. A value is a Python literal; anything else, such as a path, is a string. Settings of
            one part that follow each other are applied together.

    Raises:
        TrainingError: not of the form key=value, an unknown key (the known are listed), or a value that the
            recipe refuses.
    """
    changes = [_parsed(setting) for setting in settings]
    for parent, together in groupby(changes, key=lambda change: change.keys[:-1]):
        recipe = typing.cast(Settings, _replaced(recipe, parent, list(together)))
    return recipe


class _Change(typing.NamedTuple):
    """A setting as it was written, and what it says: "localizer.epochs=3" is 3 for (localizer, epochs)."""

    setting: str
    keys: tuple[str, ...]
    value: Any


def _parsed(setting: str) -> _Change:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise TrainingError(f"expected a setting key=value such as localizer.epochs=3, got {setting!r}")
    return _Change(setting, tuple(key.split(".")), _value(text))


def _replaced(owner: Any, parts: tuple[str, ...], changes: list[_Change]) -> Any:
    """A copy of `owner` with other fields of one of its parts; fields that fit each other only are replaced at once."""
    hints = typing.get_type_hints(type(owner))
    written = " ".join(change.setting for change in changes)
    values: dict[str, Any] = {}
    if parts:
        hint = hints[_known(owner, parts[0], written)]
        part = getattr(owner, parts[0])
        if not dataclasses.is_dataclass(part):
            part = _default(hint)
        if part is None:
            raise TrainingError(f"setting {written!r}: {parts[0]} has no parts; set {parts[0]}=value")
        values[parts[0]] = _replaced(part, parts[1:], changes)
    else:
        for change in changes:
            name = _known(owner, change.keys[-1], change.setting)
            values[name] = _fitted(hints[name], change.value, change.setting)
    try:
        return dataclasses.replace(owner, **values)
    except (ValueError, TypeError, DataError) as error:
        raise TrainingError(f"setting {written!r}: {error}") from error


def _known(owner: Any, name: str, written: str) -> str:
    names = [entry.name for entry in dataclasses.fields(owner)]
    if name not in names:
        raise TrainingError(f"setting {written!r}: unknown key {name!r}; expected one of {', '.join(names)}")
    return name


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.strip().lower(), text.strip())


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)


def _default(hint: Any) -> Any:
    """The dataclass of a type hint with its default values, for a part that is None; None if there is no dataclass."""
    parts = [option for option in _options(hint) if dataclasses.is_dataclass(option)]
    return parts[0]() if parts and isinstance(parts[0], type) else None


def _finite(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the floats
        return None


def _is_mapping_of(kinds: tuple[Any, ...], value: Mapping[Any, Any]) -> bool:
    """Whether the keys are names, and the items numbers where only these are allowed."""
    numbers = kinds[1:] == (float,)
    return all(isinstance(key, str) and (not numbers or _finite(item) is not None) for key, item in value.items())


def _fitted(hint: Any, value: Any, setting: str) -> Any:
    """Convert the value to one of the types that the hint allows."""
    for option in _options(hint):
        origin, kind = typing.get_origin(option), type(value)
        if origin is Literal:
            # precision=16 is parsed as a number, but the literal is "16".
            if value in typing.get_args(option) or str(value) in typing.get_args(option):
                return value if value in typing.get_args(option) else str(value)
        elif origin is tuple and isinstance(value, list | tuple):
            return tuple(value)
        elif origin is Mapping or origin is dict:
            if isinstance(value, Mapping) and _is_mapping_of(typing.get_args(option), value):
                return value
        elif option is float:
            if (number := _finite(value)) is not None:
                return number
        elif option is str and kind in (int, float, str):
            return str(value)
        elif isinstance(option, type) and kind is option:
            return value
    words = " or ".join(_said(option) for option in _options(hint))
    raise TrainingError(f"setting {setting!r}: expected {words}, got {value!r}")


def _said(option: Any) -> str:
    """A type in words."""
    if typing.get_origin(option) is Mapping:
        return "{'name': number}" if typing.get_args(option)[1:] == (float,) else "{'name': value}"
    return str(getattr(option, "__name__", option)).replace("NoneType", "None")
