"""`--templates` and `--descriptions`: how the commands name the sentences around and about class names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cora.regions import VocabularyEncoder

_LOG = logging.getLogger(__name__)


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Both options, off by default."""
    parser.add_argument(
        "--templates",
        metavar="FILE",
        help="sentences around a class name: a file with one a line, {} for the name, or 'plain' or 'imagenet' "
        "(default: the model's own)",
    )
    parser.add_argument(
        "--descriptions",
        type=Path,
        metavar="FILE",
        help='JSON of class name to sentences on its looks, {"dog": ["a golden retriever"]} (default: none)',
    )


@dataclass(frozen=True)
class TextOptions:
    """The files, read and checked; None where nothing was asked for."""

    templates: str | tuple[str, ...] | None = None
    descriptions: dict[str, tuple[str, ...]] | None = None

    def apply(self, encoder: VocabularyEncoder) -> None:
        """Let the encoder of a model use them.

        Raises:
            VocabularyError: a template is too long for the model's text tower.
        """
        if self.templates is not None:
            encoder.templates = self.templates
        if self.descriptions is not None:
            encoder.descriptions = self.descriptions


def read_text_options(templates: str | None, descriptions: Path | None, names: Sequence[str]) -> TextOptions:
    """Read the files before a model is loaded, so that a bad one costs no waiting.

    Args:
        templates: name of a set, or a file.
        descriptions: a file.
        names: the classes; descriptions of others are reported.

    Raises:
        VocabularyError: a file cannot be read, its sentences cannot be used, or it describes none of the classes.
    """
    from cora.regions import TEMPLATE_SETS, check_described, read_descriptions, read_templates
    from cora.regions.templates import shorten

    sentences: str | tuple[str, ...] | None = None
    if templates is not None:
        sentences = templates if templates in TEMPLATE_SETS else read_templates(templates)
    if descriptions is None:
        return TextOptions(sentences)
    described = read_descriptions(descriptions)
    strangers = check_described(described, names)
    if strangers:
        _LOG.warning(
            "%s: not used, since no class here has the name: %s", descriptions, shorten(", ".join(strangers), 100)
        )
    return TextOptions(sentences, described)
