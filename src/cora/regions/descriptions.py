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
"""Class name -> sentences. Case and underscores of the name do not count (`cora.names.name_key`)."""


def clean_descriptions(descriptions: Descriptions) -> dict[str, tuple[str, ...]]:
    """Strip and check descriptions; the keys of the result are `name_key`s.

    Raises:
        VocabularyError: not a mapping; a blank name or one given twice; not a list of sentences, an empty or too long
            list; a sentence that is blank, too long or has other braces than `{}`. The message quotes the sentence.
    """
    if not isinstance(descriptions, Mapping):
        raise VocabularyError(
            f'descriptions: expected names with lists of sentences, {{"dog": ["a golden retriever"]}}, '
            f"got {type(descriptions).__name__}"
        )
    names = [clean_sentence(name, "descriptions: name of a class") for name in descriptions]
    if twice := repeated_names(names):
        raise VocabularyError(f"descriptions: expected every name once, got {twice[0]!r} twice; join their lists")
    return {name_key(name): _clean_sentences(name, row) for name, row in zip(names, descriptions.values(), strict=True)}


def read_descriptions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``{"dog": ["a close-up image of a golden retriever"]}``.

    Raises:
        VocabularyError: the file is missing or not such JSON, or its sentences cannot be used.
    """
    text = read_text(path, "a JSON file of descriptions")
    try:
        content = json.loads(text, object_pairs_hook=_refuse_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: expected a JSON object of descriptions, got {json_fault(error)}") from error
    try:
        return clean_descriptions(content)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def check_described(descriptions: Descriptions, names: Sequence[str]) -> list[str]:
    """Names in `descriptions` that are not among `names`: no error, since one file may serve several class lists.

    Raises:
        VocabularyError: none of `names` is described, which is likely a mistake.
    """
    unknown = names_without(descriptions, names)
    if len(unknown) == len(descriptions):
        got = ", ".join(unknown[:5]) or "nothing"
        raise VocabularyError(
            f"descriptions: expected some of the {len(names)} class names, got {shorten(got)}; check the spelling"
        )
    return unknown


def _clean_sentences(name: str, given: object) -> tuple[str, ...]:
    """Strip and check the sentences of the class `name`."""
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


def _refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object, but refuse duplicate keys; Python would silently keep the last one."""
    counts = Counter(name for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"the name {twice[0]!r} stands in it twice; join the lists")
    return dict(pairs)
