"""Reads tensors from files of other programs: checkpoints of the published CORA code, region prompts, CLIP's weights.

Unpickling a file can run code in it. Therefore only tensors, plain values and an `argparse.Namespace` of them are
unpickled.
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
    """Stands in for a NumPy number, such as the best AP so far. It is not needed, so no NumPy code runs to load it."""

    def __init__(self, *parts: object) -> None:
        del parts

    def __setstate__(self, state: object) -> None:
        del state


# Classes that may be unpickled beside tensors and plain values; NumPy's are replaced by the stand-in.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    *((_Skipped, f"numpy.{name}") for name in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype")),
]


def read_tensors(file: Path, *, weights: Weights | None = None, called: str = "checkpoint") -> dict[str, Tensor]:
    """Read the tensors of a file, by name.

    Args:
        file: a safetensors file, a TorchScript archive or a torch file. A torch file may be a checkpoint of the
            published main.py, a state dict, or a mapping with a state dict under `state_dict`.
        weights: which weights of a published checkpoint: averaged ("ema") or of the last step ("model"); None for the
            averaged ones if there are any.
        called: what messages call the file.

    Raises:
        ModelError: the file is missing or cannot be read, or does not have the wanted weights.
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
    """`read_content` of a file that may hold an `argparse.Namespace` and NumPy numbers; messages call it `called`."""
    return read_content(file, called=called, allowed=_ALLOWED)
