"""Reads the templates and descriptions that the user of a command gives as files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cora.regions.descriptions import check_described, read_descriptions
from cora.regions.templates import TEMPLATE_SETS, read_templates, shorten
from cora.regions.vocabulary import VocabularyEncoder

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sentences:
    """Templates and descriptions, read and checked; None where the user gave none.

    Attributes:
        templates: name of a template set, or sentences with `{}` in place of the class name.
        descriptions: `name_key` of a class name -> sentences.
    """

    templates: str | tuple[str, ...] | None = None
    descriptions: dict[str, tuple[str, ...]] | None = None

    def apply(self, encoder: VocabularyEncoder) -> None:
        """Use them in a model's encoder, which keeps its own where they are None.

        Raises:
            VocabularyError: a template is too long for the model's text tower.
        """
        if self.templates is not None:
            encoder.templates = self.templates
        if self.descriptions is not None:
            encoder.descriptions = self.descriptions


def read_sentences(templates: str | None, descriptions: Path | None, names: Sequence[str]) -> Sentences:
    """Read the files before a model is loaded, so that a faulty one fails at once.

    Args:
        templates: name of a template set, or path of a file; None for none.
        descriptions: path of a JSON file; None for none.
        names: the class names; a warning reports descriptions of other names.

    Raises:
        VocabularyError: a file cannot be read, its sentences cannot be used, or it describes none of the classes.
    """
    sentences: str | tuple[str, ...] | None = None
    if templates is not None:
        sentences = templates if templates in TEMPLATE_SETS else read_templates(templates)
    if descriptions is None:
        return Sentences(sentences)
    described = read_descriptions(descriptions)
    unknown = check_described(described, names)
    if unknown:
        _LOG.warning(
            "%s: not used, since no class here has the name: %s", descriptions, shorten(", ".join(unknown), 100)
        )
    return Sentences(sentences, described)
