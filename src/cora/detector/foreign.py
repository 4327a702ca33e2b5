"""Files of other programs as detectors: checkpoints of the published CORA code, region prompts, CLIP's own weights.

Nothing but tensors, plain values and an `argparse.Namespace` of them is unpickled.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cora.errors import ModelError
from cora.towers.weights import read_content

Weights = Literal["ema", "model"]

_LOG = logging.getLogger(__name__)
_KEYS: dict[Weights, str] = {"ema": "model_ema", "model": "model"}


class _Skipped:
    """Stands for a NumPy number, such as the best AP so far, which is not needed; no NumPy code runs to load it."""

    def __init__(self, *parts: object) -> None:
        del parts

    def __setstate__(self, state: object) -> None:
        del state


# The only classes unpickled beside tensors and plain values: a namespace, which only holds values, and stand-ins.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    *((_Skipped, f"numpy.{name}") for name in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype")),
]


def read_tensors(file: Path, *, weights: Weights | None = None, called: str = "checkpoint") -> dict[str, Tensor]:
    """Tensors of a file by name.

    Args:
        file: a torch file, a TorchScript archive or a safetensors file; of the torch files a checkpoint of the
            published main.py, a plain state dict, or one under `state_dict`.
        weights: of a published checkpoint, its averaged weights or those of the last step; None for the averaged
            ones where it has some.
        called: what such a file is called in messages.

    Raises:
        ModelError: no such file, one that cannot be read, or one without the weights that are asked for.
    """
    content = read_foreign(file, called=called)
    if not isinstance(content, Mapping):
        raise ModelError(f"{called} {file}: expected a mapping, got {type(content).__name__}")
    has = {part: isinstance(content.get(key), Mapping) and bool(content[key]) for part, key in _KEYS.items()}
    if weights is not None and not has[weights]:
        raise ModelError(
            f"{called} {file}: expected weights under {_KEYS[weights]!r}, got none there; leave out --weights"
        )
    chosen = weights or next((part for part, there in has.items() if there), None)
    if chosen is not None:
        _LOG.info("%s: reading %r", file, _KEYS[chosen])
        content = content[_KEYS[chosen]]
    elif isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def read_foreign(file: Path, *, called: str) -> object:
    """Content of a file by `read_content`, with namespaces and NumPy's numbers allowed."""
    return read_content(file, called=called, allowed=_ALLOWED)
