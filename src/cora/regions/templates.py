"""Templates, the sentences around a class name: CLIP's 80 for ImageNet (Radford et al., 2021), "a {}", or your own.

The name goes in by `str.replace`, not by `str.format`, so that text from a file is never evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from cora.errors import VocabularyError
from cora.files import content_of, found_instead, head_of, json_fault, json_kind, shipped_text

PLACEHOLDER = "{}"
#: Most characters of a sentence. CLIP's 77 tokens are far fewer; the bound stops a wrong file before it costs minutes.
MAX_LENGTH = 500
#: Most sentences of a set; all are encoded for every name.
MAX_TEMPLATES = 1000

IMAGENET_TEMPLATES = tuple(shipped_text("regions/imagenet_templates.txt").splitlines())

TEMPLATE_SETS = MappingProxyType({"imagenet": IMAGENET_TEMPLATES, "plain": ("a {}",)})
"""Template sets by the name that a tower's configuration carries."""


def clean_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The sentences of a named set ("imagenet", "plain"), or your own, stripped and checked.

    Raises:
        VocabularyError: an unknown name, no sentence or too many, or one that is blank, too long, or whose braces
            are not exactly one `{}`; the message holds the sentence.
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
    """A stripped and checked sentence; `place` names its origin in error messages.

    Raises:
        VocabularyError: no text, a blank one, or one of more than `MAX_LENGTH` characters.
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
    """The text, cut to `length` characters with dots, for messages of one line."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def read_templates(source: str | Path) -> tuple[str, ...]:
    """Templates of a set by name, or of a file: one a line, or a JSON list where the name ends in .json.

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
        except ValueError as error:
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
    """The text of a UTF-8 file; `wanted` names the expected content in error messages.

    Raises:
        VocabularyError: it cannot be read.
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
    sentence = clean_sentence(template, f"template {place}")
    rest = sentence.replace(PLACEHOLDER, "", 1)
    if rest == sentence or "{" in rest or "}" in rest:
        raise VocabularyError(
            f"template {place}: expected {{}} exactly once where the name goes, and no other braces, "
            f"got {shorten(repr(sentence))}"
        )
    return sentence
