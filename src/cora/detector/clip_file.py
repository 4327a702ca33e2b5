"""A detector from CLIP's weights alone: its towers, a zero prompt and an untrained localizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cora.detector.cora import Detector
from cora.detector.postprocess import ALL_BOXES, PostprocessConfig
from cora.detector.presets import config_for_tower
from cora.errors import ModelError
from cora.towers import TowerConfig, build_clip_towers, known_towers, tower_config
from cora.towers.weights import load_clip_weights

#: Side in pixels of the images that open_clip's ConvNeXts were trained on, where no known one has the same sizes.
CONVNEXT_IMAGE_SIZE = 256
_CONVNEXT_STEM = "visual.trunk.stem.0.weight"
#: Numbers that OpenAI's archives hold among their tensors.
_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def is_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names are those of CLIP, of OpenAI or open_clip."""
    return any(name.startswith("visual.") for name in tensors)


def detector_from_clip(tensors: Mapping[str, Tensor], *, source: str, gelu: bool = False, seed: int = 0) -> Detector:
    """A detector with CLIP's towers and the paper's localizer of random weights, marked as untrained.

    Args:
        tensors: a state dict of OpenAI's CLIP or open_clip, with a ResNet or a ConvNeXt as image tower.
        source: where it comes from, for messages.
        gelu: the text tower's activation is GELU, not OpenAI's QuickGELU, which tensors do not tell. With a ConvNeXt it
            always is.
        seed: of the localizer's weights.

    Raises:
        ModelError: another image tower, or tensors that are missing or of another shape.
    """
    weights = {name: value.float() for name, value in tensors.items() if name not in _EXTRAS}
    tower = infer_tower(weights, source=source)
    tower = replace(tower, quick_gelu=tower.quick_gelu and not gelu)
    towers = build_clip_towers(tower)
    scale = load_clip_weights(weights, *towers, source=source)
    config = replace(
        config_for_tower(replace(tower, logit_scale=round(scale or 100.0, 4))),
        postprocess=PostprocessConfig(**ALL_BOXES),
        untrained=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector.build(config, towers=towers).eval()


def infer_tower(weights: Mapping[str, Tensor], *, source: str) -> TowerConfig:
    """Sizes of a CLIP's image tower and its text tower from the shapes of their tensors.

    Raises:
        ModelError: neither a ResNet nor a ConvNeXt, or tensors that tell a size are missing.
    """
    if "visual.class_embedding" in weights or "visual.proj" in weights:
        raise ModelError(
            f"{source}: expected a CLIP ResNet such as RN50, or a ConvNeXt such as convnext_base_w, got a ViT; CORA "
            "pools regions of a convolutional network's maps"
        )
    kind, sizes = ("ConvNeXt", _convnext_sizes) if _CONVNEXT_STEM in weights else ("ResNet", resnet_sizes)
    try:
        text = "text." if any(name.startswith("text.") for name in weights) else ""
        return _with_image_size(TowerConfig(**sizes(weights), **text_sizes(weights, text)))
    except KeyError as error:
        raise ModelError(
            f"{source}: expected weights of a CLIP {kind} and its text tower, got "
            f"{len(weights)} tensor{'s' * (len(weights) != 1)} without {error.args[0]}"
        ) from error
    except ValueError as error:
        raise ModelError(f"{source}: expected weights of a CLIP {kind}, but {error}") from error


def resnet_sizes(
    weights: Mapping[str, Tensor], *, body: str = "visual.", pool: str = "visual.attnpool."
) -> dict[str, Any]:
    """Sizes of a `TowerConfig` that an image tower has whose tensors begin with `body`, those of its pool with `pool`.

    Raises:
        KeyError: a tensor is missing.
    """
    side = round((weights[f"{pool}positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "layers": tuple(parts_in(weights, rf"{re.escape(body)}layer{stage}\.(\d+)\.") for stage in range(1, 5)),
        "width": weights[f"{body}layer1.0.conv1.weight"].shape[0],
        "image_size": side * 32,
        "embed_dim": weights[f"{pool}c_proj.weight"].shape[0],
    }


def _convnext_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    linear = "visual.head.proj.weight" in weights
    return {
        "family": "convnext",
        "quick_gelu": False,
        "layers": tuple(parts_in(weights, rf"visual\.trunk\.stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)),
        "width": weights[_CONVNEXT_STEM].shape[0],
        "image_size": CONVNEXT_IMAGE_SIZE,
        "projection": "linear" if linear else "mlp",
        "embed_dim": weights[f"visual.head.{'proj' if linear else 'mlp.fc2'}.weight"].shape[0],
    }


def text_sizes(weights: Mapping[str, Tensor], text: str) -> dict[str, Any]:
    """The same of a text tower, whose tensors begin with `text`."""
    width = weights[f"{text}ln_final.weight"].shape[0]
    return {
        "text_width": width,
        "text_heads": max(width // 64, 1),
        "text_layers": parts_in(weights, rf"{re.escape(text)}transformer\.resblocks\.(\d+)\."),
        "context_length": weights[f"{text}positional_embedding"].shape[0],
        "vocab_size": weights[f"{text}token_embedding.weight"].shape[0],
    }


def _with_image_size(tower: TowerConfig) -> TowerConfig:
    """What a ConvNeXt's tensors do not tell, from the known tower of the same sizes, the smallest of several."""
    if tower.family == "resnet":
        return tower
    untold = ("image_size", "pool_size", "norm_eps")
    known = [tower_config(name) for name in known_towers()]
    own = [one for one in known if replace(one, **{name: getattr(tower, name) for name in untold}) == tower]
    return min(own, key=lambda one: one.image_size, default=tower)


def parts_in(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the names of tensors have that begin with a pattern."""
    return len({found.group(1) for name in weights if (found := re.match(pattern, name))})
