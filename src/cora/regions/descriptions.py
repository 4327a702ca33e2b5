"""Descriptions of classes: sentences that say how an object looks (Menon & Vondrick, 2023; Pratt et al., 2023).

They help where the text tower hardly knows a name or takes it in another sense:
`{"mouse": ["a computer mouse on a desk"]}`. `{}` in a sentence stands for the name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cora.errors import VocabularyError
from cora.files import json_fault
from cora.names import name_key, names_without, repeated_names
from cora.regions.templates import PLACEHOLDER, clean_sentence, read_text, shorten

#: Most sentences of one class.
MAX_SENTENCES = 200

Descriptions = Mapping[str, Sequence[str]]
"""Class name, however it is spelled (`cora.names`) -> sentences."""


def clean_descriptions(descriptions: Descriptions) -> dict[str, tuple[str, ...]]:
    """`name_key` of a name -> its sentences, stripped and checked.

    Raises:
        VocabularyError: not a mapping; a blank name or one given twice; not a list of sentences, or none or too many;
            a sentence that is blank, too long or has other braces than `{}`. The message holds it.
    """
    if not isinstance(descriptions, Mapping):
        raise VocabularyError(
            f'descriptions: expected names with lists of sentences, {{"dog": ["a golden retriever"]}}, '
            f"got {type(descriptions).__name__}"
        )
    names = [clean_sentence(name, "descriptions: name of a class") for name in descriptions]
    if twice := repeated_names(names):
        raise VocabularyError(f"descriptions: expected every name once, got {twice[0]!r} twice; join their lists")
    return {name_key(name): _sentences(name, given) for name, given in zip(names, descriptions.values(), strict=True)}


def read_descriptions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``{"dog": ["a close-up image of a golden retriever"]}``.

    Raises:
        VocabularyError: the file is missing or not such JSON, or its sentences cannot be used.
    """
    text = read_text(path, "a JSON file of descriptions")
    try:
        content = json.loads(text, object_pairs_hook=_distinct)
    except ValueError as error:
        raise VocabularyError(f"{path}: expected a JSON object of descriptions, got {json_fault(error)}") from error
    try:
        return clean_descriptions(content)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def check_described(descriptions: Descriptions, names: Sequence[str]) -> list[str]:
    """Described names that are not class names here; one file may serve several lists of classes.

    Raises:
        VocabularyError: no class name is described, which is likely a mistake.
    """
    unknown = names_without(descriptions, names)
    if len(unknown) == len(descriptions):
        got = ", ".join(unknown[:5]) or "nothing"
        raise VocabularyError(
            f"descriptions: expected some of the {len(names)} class names, got {shorten(got)}; check the spelling"
        )
    return unknown


def _sentences(name: str, given: object) -> tuple[str, ...]:
    place = f"descriptions of {shorten(name)!r}"
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise VocabularyError(f"{place}: expected a list of sentences, got {shorten(repr(given))}; put it in a list")
    if not 1 <= len(given) <= MAX_SENTENCES:
        raise VocabularyError(f"{place}: expected 1 to {MAX_SENTENCES} sentences, got {len(given)}")
    sentences = tuple(clean_sentence(text, place) for text in given)
    for sentence in sentences:
        rest = sentence.replace(PLACEHOLDER, "")
        if "{" in rest or "}" in rest:
            raise VocabularyError(f"{place}: expected no other braces than {{}}, got {shorten(repr(sentence))}")
    return sentences


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse repeated keys of a JSON object, of which Python would silently keep the last."""
    counts = Counter(name for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"the name {twice[0]!r} stands in it twice; join the lists")
    return dict(pairs)
