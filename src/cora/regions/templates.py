"""Templates, the sentences around a class name: CLIP's 80 for ImageNet (Radford et al., 2021), "a {}", or your own.

Code that fills in the name uses `str.replace`, not `str.format`, which would evaluate text from a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from cora.errors import VocabularyError
from cora.files import content_of, found_instead, head_of, json_fault, json_kind, shipped_text

PLACEHOLDER = "{}"
#: Most characters in a sentence. CLIP's 77 tokens hold far fewer, but so a wrong file fails before it costs minutes.
MAX_LENGTH = 500
#: Most sentences in a set. All of them are encoded for every class name, so more would be slow.
MAX_TEMPLATES = 1000

IMAGENET_TEMPLATES = tuple(shipped_text("regions/imagenet_templates.txt").splitlines())

TEMPLATE_SETS = MappingProxyType({"imagenet": IMAGENET_TEMPLATES, "plain": ("a {}",)})
"""Name of a template set (`TowerConfig.templates`) -> its sentences."""


def clean_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Sentences of the named set ("imagenet", "plain"), or the given sentences, stripped and checked.

    Raises:
        VocabularyError: an unknown set, no sentence or too many, or a sentence that is blank, too long or does not
            hold exactly one `{}` and no other brace. The message quotes the sentence.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise VocabularyError(
                f"templates: expected one of {', '.join(TEMPLATE_SETS)} or a list of sentences, got {templates!r}"
            )
        return TEMPLATE_SETS[templates]
    if not 1 <= len(templates) <= MAX_TEMPLATES:
        raise VocabularyError(f"templates: expected 1 to {MAX_TEMPLATES} sentences, got {len(templates)}")
    return tuple(_clean_template(template, place) for place, template in enumerate(templates, start=1))


def clean_sentence(text: object, place: str) -> str:
    """Strip and check a sentence; error messages begin with `place`, which says where it comes from.

    Raises:
        VocabularyError: not a text, a blank one, or one of more than `MAX_LENGTH` characters.
    """
    if not isinstance(text, str):
        raise VocabularyError(f"{place}: expected a text, got {shorten(repr(text))}")
    stripped = " ".join(text.split())
    if not stripped:
        raise VocabularyError(f"{place}: expected a text, got a blank one; remove it")
    if len(stripped) > MAX_LENGTH:
        raise VocabularyError(
            f"{place}: expected at most {MAX_LENGTH} characters, got {len(stripped)}: {shorten(repr(stripped))}"
        )
    return stripped


def shorten(text: str, length: int = 60) -> str:
    """Cut a text to `length` characters, with dots at the end, so that messages stay on one line."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def read_templates(source: str | Path) -> tuple[str, ...]:
    """Read templates: a set by its name, a text file with one per line, or a JSON list from a file named *.json.

    Blank lines and lines that begin with # are skipped.

    Raises:
        VocabularyError: the file cannot be read, or its sentences cannot be used.
    """
    if str(source) in TEMPLATE_SETS:
        return TEMPLATE_SETS[str(source)]
    path = Path(source)
    if "{}" in str(source) and not path.exists():
        raise VocabularyError(
            f"expected a set of templates ({', '.join(TEMPLATE_SETS)}) or a file of them, got a template: "
            f"{shorten(str(source))}; write it into a file, one a line"
        )
    text = read_text(path, f"a set of templates ({', '.join(TEMPLATE_SETS)}) or a file of them")
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise VocabularyError(f"{path}: expected a JSON list of templates, got {json_fault(error)}") from error
        if not isinstance(content, list):
            raise VocabularyError(f"expected a JSON list of templates in {path}, got {json_kind(content)}")
    else:
        lines = [line.strip() for line in text.splitlines()]
        content = [line for line in lines if line and not line.startswith("#")]
    try:
        return clean_templates(content)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def read_text(path: Path, wanted: str) -> str:
    """Read a UTF-8 file; `wanted` says in error messages what it should contain.

    Raises:
        VocabularyError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"expected {wanted}, got {found_instead(path, error)}: {path}; check the path") from error
    except UnicodeDecodeError as error:
        if known := content_of(head_of(path)):
            raise VocabularyError(f"expected {wanted}, got {known[0]}: {path}; name another file") from error
        raise VocabularyError(f"expected {wanted} in UTF-8, got other bytes: {path}; save it as UTF-8") from error


def _clean_template(template: object, place: int) -> str:
    """Strip and check the template with the 1-based number `place`."""
    sentence = clean_sentence(template, f"template {place}")
    rest = sentence.replace(PLACEHOLDER, "", 1)
    if rest == sentence or "{" in rest or "}" in rest:
        raise VocabularyError(
            f"template {place}: expected {{}} exactly once where the name goes, and no other braces, "
            f"got {shorten(repr(sentence))}"
        )
    return sentence
