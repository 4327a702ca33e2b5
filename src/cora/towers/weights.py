"""Load weights of CLIP ResNets and ConvNeXts: by open_clip name and tag, or from a file (.pt, .bin, .safetensors)."""

from __future__ import annotations

import logging
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cora.errors import ModelError
from cora.files import content_of, head_of, not_fetched
from cora.towers.build import build_clip_towers
from cora.towers.clip_tower import ClipTower
from cora.towers.config import TowerConfig
from cora.towers.download import download_weights
from cora.towers.exports import export_kind, is_torchscript
from cora.towers.known import default_tag, tower_config
from cora.towers.resnet_tower import interpolate_positions
from cora.towers.text_tower import TextTower

_LOG = logging.getLogger(__name__)
_POSITIONS = "attnpool.positional_embedding"
#: Value of `pretrained` that stands for the tower's `default_tag`.
DEFAULT_WEIGHTS = "default"
#: Numbers in OpenAI's state dicts that are no weights.
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def load_towers(
    name: str, pretrained: str | Path | None = DEFAULT_WEIGHTS, *, config: TowerConfig | None = None
) -> tuple[ClipTower, TextTower, float]:
    """Build a named pair of towers and load its weights.

    Args:
        name: one of `known_towers()`, for example "RN50-quickgelu".
        pretrained: a tag of open_clip ("openai"), a file, None for random weights, or "default": OpenAI's weights for a
            ResNet, those of `default_tag` for a ConvNeXt.
        config: configuration to build instead of the name's, for example with another `pool_size`.

    Returns:
        Image tower, text tower, logit scale (factor on the cosine).

    Raises:
        ModelError: unknown name or tag, weights that cannot be downloaded, a file that does not fit.
    """
    config = config or tower_config(name)
    image_tower, text_tower = build_clip_towers(config)
    if pretrained is None:
        return image_tower, text_tower, config.logit_scale
    if pretrained == DEFAULT_WEIGHTS:
        pretrained = default_tag(name)
    file = Path(pretrained) if _is_file_name(pretrained) else download_weights(name, str(pretrained))
    logit_scale = load_clip_weights(read_weights(file), image_tower, text_tower, source=str(file))
    return image_tower, text_tower, logit_scale or config.logit_scale


def why_unreadable(error: Exception) -> str:
    """One line that says why a weight file could not be read."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        # torch's own message advises users to switch `weights_only` off, which would let a file run code.
        return "no PyTorch file, or one that holds more than tensors and could run code"
    if "inline_container" in str(error) or "PytorchStreamReader" in str(error):
        return "an archive that is damaged, or no PyTorch file"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_no_export(path: Path, *, source: str) -> None:
    """Refuse an exported model where a weight file is expected.

    Args:
        path: of an existing file.
        source: start of the error message: what the file was read as.

    Raises:
        ModelError: the file is an exported model; the message names its format.
    """
    kind = export_kind(path)
    if kind is not None:
        raise ModelError(f"{source}: expected a file of weights, got {kind}; name the file that it was exported from")


def read_content(file: Path, *, called: str, allowed: Sequence[Any] = ()) -> object:
    """Read a tensor file of another program: safetensors, a TorchScript archive (OpenAI's .pt) or a torch file.

    Args:
        file: path of the file.
        called: what error messages call it.
        allowed: classes and functions that may be unpickled besides tensors and plain values.

    Returns:
        Usually tensors by name, sometimes a single tensor.

    Raises:
        ModelError: no such file, or one that cannot be read; for an exported model the message names its format.
    """
    if file.is_dir():
        raise ModelError(f"{called} {file}: expected a file, got a folder; name a file in it")
    if not file.is_file():
        raise ModelError(f"{called} {file}: expected an existing file, got none")
    check_no_export(file, source=f"{called} {file}")
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                kind = (opened.metadata() or {}).get("format", "")
            if kind.startswith("cora-"):
                raise ModelError(
                    f"{called} {file}: expected a file of another program, got one of cora; use it as it is"
                )
            return load_file(file)
        if is_torchscript(file):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript, OpenAI's only format
                return torch.jit.load(str(file), map_location="cpu").state_dict()
        with _only(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle format; errors say the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        head = head_of(file)
        # A ZIP archive may be a damaged PyTorch file, so it is not reported as a ZIP file.
        known = None if head.startswith(b"PK") else content_of(head)
        instead = f"got {known[0]}" if known else f"could not read it ({why_unreadable(error)})"
        raise ModelError(f"{called} {file}: expected a file of tensors, {not_fetched(head) or instead}") from error


@contextmanager
def _only(allowed: Sequence[Any]) -> Iterator[None]:
    """Let torch unpickle these classes only, not those that other packages in this process have allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(list(allowed)):
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a tower from a file of any format of `read_content`; only tensors are unpickled.

    Raises:
        ModelError: no such file, or not a weight file.
    """
    path = Path(file)
    content = read_content(path, called="weight file")
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ModelError(f"weight file {path}: expected tensors by name, got {type(content).__name__}")
    tensors = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    return {key: value for key, value in tensors.items() if key not in _ARCHIVE_EXTRAS}


def load_clip_weights(
    weights: Mapping[str, Tensor], image_tower: ClipTower, text_tower: TextTower, *, source: str
) -> float | None:
    """Load a CLIP state dict with OpenAI's or open_clip's names into both towers.

    Returns:
        The factor on the cosine, exp(logit_scale); None if the state dict has no logit scale.

    Raises:
        ModelError: tensors are missing or of another shape.
    """
    image = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    text = {key.removeprefix("text."): value for key, value in weights.items() if not key.startswith("visual.")}
    scale = text.pop("logit_scale", None)
    text.pop("logit_bias", None)
    side = image_tower.pool_size
    if _POSITIONS in image and image[_POSITIONS].shape[0] != side**2 + 1:
        _LOG.info("attention pool of %s: positions interpolated to %d x %d", source, side, side)
        image[_POSITIONS] = interpolate_positions(image[_POSITIONS].float(), (side, side))
    load_checked(image_tower.net, image, source=f"{source} (image tower)")
    load_checked(text_tower.net, text, source=f"{source} (text tower)")
    return None if scale is None else math.exp(float(scale))


def load_checked(module: nn.Module, weights: Mapping[str, Tensor], *, source: str, assign: bool = False) -> None:
    """Load a state dict that must fit exactly, except that `num_batches_tracked` of batch norms may be missing.

    Args:
        module: receives the weights.
        weights: state dict.
        source: start of error messages: where the weights come from.
        assign: use the tensors themselves as parameters, without a copy; the caller must not use them afterwards.

    Raises:
        ModelError: tensors are missing, unknown or of another shape; the message has their number and an example.
    """
    own = module.state_dict()
    missing = sorted(key for key in own.keys() - weights.keys() if not key.endswith("num_batches_tracked"))
    unknown = sorted(weights.keys() - own.keys())
    reshaped = [key for key in sorted(own.keys() & weights.keys()) if own[key].shape != weights[key].shape]
    if reshaped:
        key = reshaped[0]
        raise ModelError(
            f"{source}: {len(reshaped)} tensors of another shape, for example {key}: "
            f"expected {list(own[key].shape)}, got {list(weights[key].shape)}; was it made for another model?"
        )
    if missing or unknown:
        example = (missing or unknown)[0]
        raise ModelError(
            f"{source}: expected the {len(own)} tensors of this model, got {len(missing)} missing and "
            f"{len(unknown)} unknown, for example {example}; was it made for another model?"
        )
    if assign:
        weights = {key: value.to(own[key].dtype) for key, value in weights.items()}
    module.load_state_dict(dict(weights), strict=False, assign=assign)


def _is_file_name(pretrained: str | Path) -> bool:
    path = Path(pretrained)
    return isinstance(pretrained, Path) or path.is_file() or path.suffix in {".pt", ".pth", ".bin", ".safetensors"}
