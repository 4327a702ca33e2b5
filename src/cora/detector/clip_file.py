"""Builds a detector from a file of CLIP weights: CLIP's towers, a zero region prompt and an untrained localizer."""

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

#: Side in pixels of the images that a ConvNeXt was trained on, if no known tower has the same sizes.
CONVNEXT_IMAGE_SIZE = 256
_CONVNEXT_STEM = "visual.trunk.stem.0.weight"
#: Entries of OpenAI's state dicts that are settings, not weights.
_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def is_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a CLIP, from OpenAI or open_clip, by their names."""
    return any(name.startswith("visual.") for name in tensors)


def detector_from_clip(tensors: Mapping[str, Tensor], *, source: str, gelu: bool = False, seed: int = 0) -> Detector:
    """Build a detector with CLIP's towers and the paper's localizer with random weights, marked as untrained.

    Args:
        tensors: a state dict of OpenAI's CLIP or open_clip, with a ResNet or a ConvNeXt as image tower.
        source: where the tensors come from, for messages.
        gelu: whether the text tower has GELU instead of OpenAI's QuickGELU; the tensors do not show it. With a ConvNeXt
            it is always GELU.
        seed: seed of the localizer's weights.

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
    """Infer the sizes of CLIP's image and text tower from the shapes of their tensors.

    Raises:
        ModelError: the image tower is neither a ResNet nor a ConvNeXt, or a tensor that shows a size is missing.
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
    """Image fields of a `TowerConfig`, from the shapes of a ResNet's tensors.

    Args:
        weights: tensors by name.
        body: prefix of the names of the ResNet.
        pool: prefix of the names of its attention pool.

    Raises:
        KeyError: a tensor is missing.
    """
    side = round((weights[f"{pool}positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "layers": tuple(num_parts(weights, rf"{re.escape(body)}layer{stage}\.(\d+)\.") for stage in range(1, 5)),
        "width": weights[f"{body}layer1.0.conv1.weight"].shape[0],
        "image_size": side * 32,
        "embed_dim": weights[f"{pool}c_proj.weight"].shape[0],
    }


def _convnext_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Image fields of a `TowerConfig`, from the shapes of a ConvNeXt's tensors."""
    linear = "visual.head.proj.weight" in weights
    return {
        "family": "convnext",
        "quick_gelu": False,
        "layers": tuple(num_parts(weights, rf"visual\.trunk\.stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)),
        "width": weights[_CONVNEXT_STEM].shape[0],
        "image_size": CONVNEXT_IMAGE_SIZE,
        "projection": "linear" if linear else "mlp",
        "embed_dim": weights[f"visual.head.{'proj' if linear else 'mlp.fc2'}.weight"].shape[0],
    }


def text_sizes(weights: Mapping[str, Tensor], text: str) -> dict[str, Any]:
    """Text fields of a `TowerConfig`, from the shapes of the tensors whose names begin with `text`."""
    width = weights[f"{text}ln_final.weight"].shape[0]
    return {
        "text_width": width,
        "text_heads": max(width // 64, 1),
        "text_layers": num_parts(weights, rf"{re.escape(text)}transformer\.resblocks\.(\d+)\."),
        "context_length": weights[f"{text}positional_embedding"].shape[0],
        "vocab_size": weights[f"{text}token_embedding.weight"].shape[0],
    }


def _with_image_size(tower: TowerConfig) -> TowerConfig:
    """Complete the fields that a ConvNeXt's tensors do not show, from the known tower with the same sizes.

    If several have them, from the one with the smallest images.
    """
    if tower.family == "resnet":
        return tower
    not_shown = ("image_size", "pool_size", "norm_eps")
    known = [tower_config(name) for name in known_towers()]
    same = [other for other in known if replace(other, **{name: getattr(tower, name) for name in not_shown}) == tower]
    return min(same, key=lambda other: other.image_size, default=tower)


def num_parts(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count numbered parts such as layers: the different values of the pattern's group among the names of tensors."""
    return len({found.group(1) for name in weights if (found := re.match(pattern, name))})
