"""Replaces fields of a recipe by settings such as "localizer.epochs=3", and checks their types."""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal

from cora.errors import TrainingError

Settings = typing.TypeVar("Settings")


def override(recipe: Settings, settings: Sequence[str]) -> Settings:
    """Copy a recipe, or another frozen dataclass, with settings such as "localizer.epochs=3" or "relabel=None".

    Args:
        recipe: is not changed.
        settings: "key=value" each. A value is a Python literal; anything else, such as a path, is a string.

    Raises:
        TrainingError: not of the form key=value, an unknown key (the known are listed), or a value that the
            recipe refuses.
    """
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise TrainingError(f"expected a setting key=value such as localizer.epochs=3, got {setting!r}")
        recipe = typing.cast(Settings, _replaced(recipe, key.split("."), _value(text), setting))
    return recipe


def _replaced(owner: Any, keys: list[str], value: Any, setting: str) -> Any:
    names = [entry.name for entry in dataclasses.fields(owner)]
    if keys[0] not in names:
        raise TrainingError(f"setting {setting!r}: unknown key {keys[0]!r}; expected one of {', '.join(names)}")
    hint = typing.get_type_hints(type(owner))[keys[0]]
    if len(keys) > 1:
        part = getattr(owner, keys[0])
        if not dataclasses.is_dataclass(part):
            part = _default(hint)
        if part is None:
            raise TrainingError(f"setting {setting!r}: {keys[0]} has no parts; set {keys[0]}=value")
        value = _replaced(part, keys[1:], value, setting)
    else:
        value = _fitted(hint, value, setting)
    try:
        return dataclasses.replace(owner, **{keys[0]: value})
    except (ValueError, TypeError) as error:
        raise TrainingError(f"setting {setting!r}: {error}") from error


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.strip().lower(), text.strip())


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)


def _default(hint: Any) -> Any:
    """The dataclass of a type hint with its default values, for a part that is None; None if there is no dataclass."""
    parts = [option for option in _options(hint) if dataclasses.is_dataclass(option)]
    return parts[0]() if parts and isinstance(parts[0], type) else None


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
            if isinstance(value, Mapping):
                return value
        elif option is float and kind in (int, float) and math.isfinite(value):
            return float(value)
        elif option is str and kind in (int, float, str):
            return str(value)
        elif isinstance(option, type) and kind is option:
            return value
    words = " or ".join(
        str(getattr(option, "__name__", option)).replace("NoneType", "None") for option in _options(hint)
    )
    raise TrainingError(f"setting {setting!r}: expected {words}, got {value!r}")
