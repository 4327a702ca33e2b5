"""Region prompts as the published code exports them: the prompted positional table of the attention pool."""

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
#: Prefixes of the same tensors in a backbone, a published model, a model of CLIP; longest first.
_PREFIXES = ("backbone.0.body.", "backbone.0.", "visual.")


def apply_published_prompt(detector: Detector, file: Path) -> None:
    """Give a detector the released region prompt of a file, whatever prompt it had.

    The prompt becomes the difference to the tower's own table, so that both stay apart. Other tensors of the file
    replace those of the image tower.

    Args:
        detector: on a CLIP ResNet; changed in place.
        file: a positional table [S*S + 1, C], by itself or by its name in a state dict.

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
            prefix = next((one for one in _PREFIXES if short.startswith(one)), "")
            found[short.removeprefix(prefix).replace("attn_pool.", "attnpool.", 1)] = value
    return found
