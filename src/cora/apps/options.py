"""Options of commands as frozen dataclasses, and the parsers that are derived from them.

A field made by `option` or `switch` is an option, one made by `argument` a positional argument, and one made by `group`
a dataclass of further options. The type of a field says how its text is read: `Path`, `int` and `float` convert it,
`Literal` lists the choices; a path is shown as FILE in the help, a whole number as N, unless `metavar` says otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from cora.apps.kinds import Kind

AnyOptions = TypeVar("AnyOptions")

#: Where a dataclass field keeps its `_Argument` or `_Group`.
_KEY = "cora.apps.options"
_POSITIONAL = ""


@dataclass(frozen=True, eq=False)
class OneOf:
    """Options of which one can be given at most: those made with the same `OneOf`; `required`: exactly one."""

    required: bool = False


@dataclass(frozen=True, kw_only=True)
class _Argument:
    names: tuple[str, ...]
    writes: Kind | None
    section: str | tuple[str, str] | None
    one_of: OneOf | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class _Group:
    options: type[Any]
    words: Mapping[str, str]


def option(
    *flags: str,
    default: Any = None,
    writes: Kind | None = None,
    section: str | tuple[str, str] | None = None,
    one_of: OneOf | None = None,
    **settings: Any,
) -> Any:
    """A field that is an option; a required one has no default.

    Args:
        *flags: its spellings; by default that of the field, `--tile-size` for `tile_size`.
        default: value where the option is not given.
        writes: what is written to the file or folder that it names.
        section: title of the help's section that it is listed in, or that and a sentence about the section.
        one_of: options that exclude each other.
        **settings: of `argparse`'s `add_argument`: help, metavar, type, choices, nargs, action, required.
    """
    made = _Argument(names=flags, writes=writes, section=section, one_of=one_of, settings=settings)
    default = dataclasses.MISSING if settings.get("required") else default
    return dataclasses.field(default=default, metadata={_KEY: made})


def switch(*flags: str, **settings: Any) -> Any:
    """A field that is an option without a value, True where it is given; the settings are those of `option`."""
    return option(*flags, default=False, action="store_true", **settings)


def argument(**settings: Any) -> Any:
    """A field that is a positional argument; the settings are those of `option`."""
    return option(_POSITIONAL, **settings)


def group(options: type[AnyOptions], **words: str) -> AnyOptions:
    """A field that holds a dataclass of options; `{word}` in their help is replaced by the text of that keyword."""
    made: Any = dataclasses.field(default_factory=options, metadata={_KEY: _Group(options, words)})
    return typing.cast(AnyOptions, made)


def add_options(
    parser: argparse.ArgumentParser, options: type[Any], words: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """Add the options of a dataclass to a parser, with the texts for `{word}` in their help; returns the parser."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        entry = field.metadata.get(_KEY)
        if isinstance(entry, _Group):
            add_options(parser, entry.options, entry.words)
        elif isinstance(entry, _Argument):
            hint = hints[field.name]
            settings = {**_placeholder(hint, entry.settings), **_of_type(hint, entry.settings), **entry.settings}
            for word, text in (words or {}).items():
                settings["help"] = settings["help"].replace(f"{{{word}}}", text)
            default = None if field.default is dataclasses.MISSING else field.default
            settings["default"] = list(default or ()) if settings.get("action") == "append" else default
            names = entry.names or (f"--{field.name.replace('_', '-')}",)
            if names == (_POSITIONAL,):
                names = (field.name,)
            else:
                settings["dest"] = field.name
            _container(parser, entry).add_argument(*names, **settings)
    return parser


def _placeholder(hint: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """The metavar that the type of a field implies: N for a whole number, FILE for a path, else argparse's."""
    kinds = [] if given.keys() & {"choices", "action"} else typing.get_args(hint) or (hint,)
    return {"metavar": "N"} if int in kinds else {"metavar": "FILE"} if Path in kinds else {}


def _of_type(hint: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `add_argument` that the type of a field implies, unless they are `given`."""
    inner = [one for one in typing.get_args(hint) if one is not NoneType]
    if NoneType in typing.get_args(hint) and len(inner) == 1:
        return _of_type(inner[0], given)
    if given.keys() & {"type", "choices"} or hint is bool:
        return {}
    if typing.get_origin(hint) is Literal:
        return {"choices": inner}
    if hint in (int, float):
        return {"type": hint}
    if hint is Path:
        return {"type": path}
    return _of_type(inner[0], given) if inner else {}


def path(text: str) -> Path:
    """A path with ~ expanded, since a shell does not expand it in `--json=~/boxes.json`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user
        return Path(text)


def _container(parser: argparse.ArgumentParser, entry: _Argument) -> Any:
    """Where the argument is added: the parser, a section of it, or options that exclude each other."""
    place: Any = parser
    if entry.section is not None:
        title, *about = (entry.section,) if isinstance(entry.section, str) else entry.section
        known = [one for one in parser._action_groups if one.title == title]
        place = known[0] if known else parser.add_argument_group(title, *about)
    if entry.one_of is None:
        return place
    kept: dict[OneOf, Any] = vars(parser).setdefault("cora_one_of", {})
    if entry.one_of not in kept:
        kept[entry.one_of] = place.add_mutually_exclusive_group(required=entry.one_of.required)
    return kept[entry.one_of]


def read_options(options: type[AnyOptions], values: argparse.Namespace) -> AnyOptions:
    """The dataclass of what a parser of `add_options` has read."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]  # every dataclass
        entry = field.metadata.get(_KEY)
        if isinstance(entry, _Group):
            given[field.name] = read_options(entry.options, values)
        elif isinstance(entry, _Argument):
            given[field.name] = getattr(values, field.name)
    return options(**given)


def values_of(options: Any) -> dict[str, Any]:
    """Name -> value of all options, those of groups included."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values |= values_of(value) if isinstance(field.metadata.get(_KEY), _Group) else {field.name: value}
    return values


def outputs_of(options: type[Any]) -> dict[str, Kind]:
    """Name of every option that names a file or folder to write -> what is written there."""
    outputs: dict[str, Kind] = {}
    for field in dataclasses.fields(options):
        entry = field.metadata.get(_KEY)
        if isinstance(entry, _Group):
            outputs |= outputs_of(entry.options)
        elif isinstance(entry, _Argument) and entry.writes is not None:
            outputs[field.name] = entry.writes
    return outputs
