"""Loads region prompts that the published code exports: the attention pool's positional table plus the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cora.detector.cora import Detector
from cora.detector.foreign import read_foreign
from cora.errors import ModelError
from cora.towers import resnet_of

_TABLE = "attnpool.positional_embedding"
#: Prefixes of the image tower's tensors in published checkpoints and in CLIP; a longer one before its own prefix.
_PREFIXES = ("backbone.0.body.", "backbone.0.", "visual.")


def apply_published_prompt(detector: Detector, file: Path) -> None:
    """Replace the region prompt of a detector by that of a released file.

    The file stores the sum of positional table and prompt. The prompt becomes that sum minus the tower's own table,
    which does not change. Other tensors of the file replace those of the image tower.

    Args:
        detector: a detector with a CLIP ResNet; changed in place.
        file: the sum [S*S + 1, C], either a bare tensor or under its name in a state dict.

    Raises:
        ModelError: the file cannot be read, holds something else, or is made for another tower.
    """
    source = f"region prompt {file}"
    net = resnet_of(detector.image_tower, source).net
    tensors = _tensors(read_foreign(file, called="region prompt"), source)
    own = net.state_dict()
    unknown = sorted(tensors.keys() - own.keys())
    if unknown or not tensors:
        raise ModelError(
            f"{source}: expected {_TABLE}, or other tensors of the image tower, got "
            f"{f'{len(unknown)} unknown, for example {unknown[0]}' if unknown else 'none'}; is it a region prompt?"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise ModelError(
                f"{source}: {name}: expected {list(own[name].shape)}, got {list(value.shape)}; is it for another tower?"
            )
    with torch.no_grad():
        table = tensors.pop(_TABLE, None)
        for name, value in tensors.items():
            own[name].copy_(value)
        if table is not None:
            detector.prompt.offset.copy_(table.float() - detector.image_tower.positions)


def _tensors(content: object, source: str) -> dict[str, Tensor]:
    """The tensors of a file by their names in the image tower, without prefixes."""
    if isinstance(content, Tensor):
        return {_TABLE: content}
    if not isinstance(content, Mapping):
        raise ModelError(f"{source}: expected a table or a mapping of tensors, got {type(content).__name__}")
    if isinstance(content.get("model"), Mapping):
        raise ModelError(f"{source}: expected a region prompt, got a whole checkpoint; convert it by itself")
    found = {}
    for name, value in content.items():
        if isinstance(value, Tensor) and not str(name).endswith("num_batches_tracked"):
            short = str(name).removeprefix("module.")
            prefix = next((entry for entry in _PREFIXES if short.startswith(entry)), "")
            found[short.removeprefix(prefix).replace("attn_pool.", "attnpool.", 1)] = value
    return found
