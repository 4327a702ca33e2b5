"""Exceptions for people: every message says what was expected, what was found and what to do, in one line.

The command line prints the message and exits with code 2; nothing else of the package catches them.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Ends of messages that name an option; commands without that option cut them off.
SKIP_BAD = ", or leave them out (--skip-bad)"
TEXT_MODEL = ", or name the right model with --text-model"
#: Name of the option's value -> such an end.
OPTIONAL = {"skip_bad": SKIP_BAD, "text_model": TEXT_MODEL}


class CoraError(Exception):
    """Base of every error that a user can cause and mend."""


class ImageError(CoraError):
    """An image cannot be read: missing, not an image, truncated, too large."""


class VocabularyError(CoraError):
    """A list of class names is unusable: empty, blank, duplicate, too long for the text tower."""


class ModelError(CoraError):
    """A model is unknown, its weights cannot be had, or a checkpoint does not fit."""


class DataError(CoraError):
    """An annotation file or class split is inconsistent; the message counts what is wrong."""


class TrainingError(CoraError):
    """Training cannot go on: a loss that is not finite, a run folder of another configuration."""


class OptionError(CoraError, ValueError):
    """An option has a value of the wrong type, or out of range."""


class MissingExtraError(CoraError):
    """An optional package is needed; the message names the extra to install."""

    def __init__(self, feature: str, *, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package; install it with: pip install 'cora-ovd[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process gets the message, not what the constructor made it of.
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]


@contextmanager
def needs_extra(feature: str, *, extra: str) -> Iterator[None]:
    """A with block that imports optional packages: MissingExtraError where one of them is not installed."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(feature, extra=extra) from error
