"""Change settings of a network, with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from cora.detector.postprocess import PostprocessConfig
from cora.errors import OptionError
from cora.predictor.settings import UnknownOptionError


def changed(config: PostprocessConfig, changes: Mapping[str, Any]) -> PostprocessConfig:
    """A copy of the settings with the fields in `changes` replaced.

    Raises:
        OptionError: a value is of the wrong type or out of range.
        UnknownOptionError: unknown field.
    """
    known = [entry.name for entry in fields(PostprocessConfig)]
    for name in changes:
        if name not in known:
            raise UnknownOptionError(
                f"with_postprocess: expected some of {', '.join(known)}, or precision, got {name!r}"
            )
    try:
        return replace(config, **changes)
    except (TypeError, ValueError) as error:
        raise OptionError(f"with_postprocess: expected values in their range, got {dict(changes)} ({error})") from None
