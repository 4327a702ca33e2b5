"""Parses and checks the classes that users give: plain names, or names with prompts, "mug = cup | coffee cup".

A prompt is a text that is embedded for the class; the class name is what detections report. Both forms become
`ClassPrompts`. A plain class name is its own and only prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from cora.errors import VocabularyError
from cora.names import name_key, names_without, prompted_name, repeated_names, sides_of, spoken_name
from cora.regions.templates import shorten

ClassPrompts = Mapping[str, tuple[str, ...]]
"""Class name, as detections report it -> its prompts, the texts that are embedded for it."""
Classes = Iterable[str] | Mapping[str, str | Sequence[str]]
"""What users give: class names, some as "mug = cup | coffee cup", or {"mug": ["cup", "coffee cup"]}."""

#: Most prompts of one class.
MAX_PROMPTS = 50
_FORM = 'write "mug = cup | coffee cup"'


def clean_names(names: Sequence[str]) -> tuple[str, ...]:
    """Strip names and check them.

    Raises:
        VocabularyError: no name, a blank one, or one given twice, where case and underscores do not count
            (`cora.names.name_key`).
    """
    if isinstance(names, str):
        raise VocabularyError(f"class names: expected a list of names, got the text {names!r}; put it in a list")
    stripped = tuple(name.strip() for name in names)
    if not stripped:
        raise VocabularyError("class names: expected at least one, got an empty list")
    spoken = [spoken_name(name) for name in stripped]
    if not all(spoken):
        position = spoken.index("") + 1
        raise VocabularyError(f"class names: expected text in each, got a blank one at position {position}")
    if twice := repeated_names(stripped):
        same = [name for name in twice[1:] if name_key(name) == name_key(twice[0])]
        differ = [name for name in same if name.casefold() != twice[0].casefold()]
        got = f"{twice[0]!r} and {differ[0]!r}, which is the same" if differ else f"{twice[0]!r} twice"
        raise VocabularyError(f"class names: expected every name once, got {got}; remove one")
    return stripped


def class_prompts(classes: Classes) -> dict[str, tuple[str, ...]]:
    """Parse classes to `ClassPrompts`, in their order; empty if none are given.

    In a list, "mug = cup | coffee cup" is a class with prompts, and every other text is a class name. In a mapping,
    names and prompts are taken literally.

    Raises:
        VocabularyError: names that `clean_names` refuses; a class with no prompt, a blank prompt, the same prompt twice
            or too many; two classes with the same prompts; something that is neither a text nor a list of texts.
    """
    pairs = _parse_mapping(classes) if isinstance(classes, Mapping) else [_parse_text(text) for text in classes]
    if not pairs:
        return {}
    names = clean_names([name for name, _ in pairs])
    found = {name: _clean_prompts(name, prompts) for name, (_, prompts) in zip(names, pairs, strict=True)}
    taken: dict[frozenset[str], str] = {}
    for name, prompts in found.items():
        other = taken.setdefault(frozenset(map(name_key, prompts)), name)
        if other != name:
            raise VocabularyError(
                f"class {shorten(repr(name))}: expected other prompts than those of {shorten(repr(other))}, "
                "got the same; remove one of the two"
            )
    return found


def by_themselves(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`ClassPrompts` in which each name is its only prompt; names are taken literally and not checked."""
    return {name: (name,) for name in names}


def names_alone(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """Refuse prompts where only names are allowed; nothing else is checked.

    Args:
        what: what the names are for ("distractors"); the message begins with it.
        names: the texts.

    Raises:
        VocabularyError: a text has prompts ("mug = cup").
    """
    found = [(text, sides_of(text)) for text in names]
    for text, sides in found:
        if len(sides) > 1:
            raise VocabularyError(
                f"{what}: expected names without prompts, got {shorten(repr(text))}; "
                'write the name alone, in quotes if it has "=" in it'
            )
    return tuple(sides[0][0] for _, sides in found)


def written_classes(classes: ClassPrompts) -> tuple[str, ...]:
    """Write classes as texts ("mug = cup | coffee cup"), the reverse of `class_prompts`."""
    return tuple(prompted_name(name, prompts) for name, prompts in classes.items())


def other_prompts(classes: ClassPrompts) -> tuple[str, ...]:
    """The prompts that are not class names themselves, each once, in order."""
    found: dict[str, str] = {}
    for prompt in itertools.chain(*classes.values()):
        found.setdefault(name_key(prompt), prompt)
    return tuple(names_without(found.values(), classes))


def _parse_text(text: str) -> tuple[str, list[str]]:
    """Class name and prompts of "name = prompt | prompt" or of a plain name."""
    sides = sides_of(text)
    if len(sides) == 1:
        return sides[0][0], sides[0]
    shown = f"class {shorten(repr(text))}"
    if len(sides) > 2:
        raise VocabularyError(f'{shown}: expected "=" once, got it {len(sides) - 1} times; {_FORM}')
    if len(sides[0]) > 1:
        raise VocabularyError(f'{shown}: expected one class name before "=", got {len(sides[0])}; {_FORM}')
    if not spoken_name(sides[0][0]):
        raise VocabularyError(f'{shown}: expected a class name before "=", got none; {_FORM}')
    return sides[0][0], sides[1]


def _parse_mapping(classes: Mapping[str, str | Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """Class names and prompts of a mapping, its types checked."""
    found: list[tuple[str, Sequence[str]]] = []
    for name, given in classes.items():
        if not isinstance(name, str):
            raise VocabularyError(f"class names: expected a text, got {shorten(repr(name))}")
        shown = f"class {shorten(repr(name))}"
        if isinstance(given, str):
            if ("|" in given or "=" in given) and given != name:
                raise VocabularyError(
                    f'{shown}: expected a list of prompts, ["cup", "coffee cup"], got the text {shorten(repr(given))}'
                )
            found.append((name, [given]))
        elif isinstance(given, Sequence) and all(isinstance(prompt, str) for prompt in given):
            found.append((name, given))
        else:
            raise VocabularyError(
                f'{shown}: expected a prompt or a list of prompts, ["cup", "coffee cup"], got {shorten(repr(given))}'
            )
    return found


def _clean_prompts(name: str, prompts: Sequence[str]) -> tuple[str, ...]:
    """Strip and check the prompts of the class `name`."""
    shown = f"class {shorten(repr(name))}"
    stripped = tuple(prompt.strip() for prompt in prompts)
    if not 1 <= len(stripped) <= MAX_PROMPTS:
        raise VocabularyError(f"{shown}: expected 1 to {MAX_PROMPTS} prompts, got {len(stripped)}")
    if not all(map(spoken_name, stripped)):
        raise VocabularyError(f"{shown}: expected text in each prompt, got a blank one; {_FORM}")
    if twice := repeated_names(stripped):
        raise VocabularyError(f"{shown}: expected every prompt once, got {shorten(repr(twice[0]))} twice; remove one")
    return stripped
