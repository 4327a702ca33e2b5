"""A detector from CLIP's weights alone: its towers, no prompt, and a localizer still to train."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cora.detector.config import DetectorConfig
from cora.detector.cora import Detector
from cora.detector.postprocess import ALL_BOXES, PostprocessConfig
from cora.errors import ModelError
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig, build_towers, resnet_of
from cora.towers.weights import load_clip_weights

#: Numbers that OpenAI's archives hold among their tensors.
_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def is_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names are those of CLIP, of OpenAI or open_clip."""
    return any(name.startswith("visual.") for name in tensors)


def detector_from_clip(tensors: Mapping[str, Tensor], *, source: str, gelu: bool = False, seed: int = 0) -> Detector:
    """A detector with CLIP's towers and the paper's localizer of random weights, marked as untrained.

    Args:
        tensors: a state dict of OpenAI's CLIP or open_clip, an image tower that is a ResNet.
        source: where it comes from, for messages.
        gelu: the text tower's activation is GELU, not OpenAI's quick one; tensors do not say it.
        seed: of the localizer.

    Raises:
        ModelError: the image tower is no ResNet, or tensors are missing or of another shape.
    """
    weights = {name: value.float() for name, value in tensors.items() if name not in _EXTRAS}
    tower = infer_tower(weights, source=source)
    towers = build_towers(replace(tower, quick_gelu=not gelu))
    scale = load_clip_weights(weights, resnet_of(towers[0], source), towers[1], source=source)
    config = DetectorConfig(
        tower=replace(tower, quick_gelu=not gelu, logit_scale=round(scale or 100.0, 4)),
        localizer=LocalizerConfig(embed_dim=tower.embed_dim, c3_channels=tower.width * 16),
        postprocess=PostprocessConfig(**ALL_BOXES),
        untrained=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector.build(config, towers=towers).eval()


def infer_tower(weights: Mapping[str, Tensor], *, source: str) -> TowerConfig:
    """Sizes of a CLIP ResNet and its text tower from the shapes of their tensors.

    Raises:
        ModelError: another kind of image tower, or tensors that tell a size are missing.
    """
    if "visual.class_embedding" in weights or "visual.proj" in weights:
        raise ModelError(
            f"{source}: expected a CLIP ResNet such as RN50, got a ViT; CORA pools regions of a ResNet's maps"
        )
    text = "text." if any(name.startswith("text.") for name in weights) else ""

    def shape(name: str) -> torch.Size:
        return weights[name].shape

    def count(pattern: str) -> int:
        return len({found.group(1) for name in weights if (found := re.match(pattern, name))})

    try:
        side = round((shape("visual.attnpool.positional_embedding")[0] - 1) ** 0.5)
        first, second, third, fourth = (count(rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, 5))
        width = shape(f"{text}ln_final.weight")[0]
        return TowerConfig(
            layers=(first, second, third, fourth),
            width=shape("visual.layer1.0.conv1.weight")[0],
            image_size=side * 32,
            embed_dim=shape("visual.attnpool.c_proj.weight")[0],
            text_width=width,
            text_heads=max(width // 64, 1),
            text_layers=count(rf"{re.escape(text)}transformer\.resblocks\.(\d+)\."),
            context_length=shape(f"{text}positional_embedding")[0],
            vocab_size=shape(f"{text}token_embedding.weight")[0],
        )
    except KeyError as error:
        raise ModelError(
            f"{source}: expected weights of a CLIP ResNet and its text tower, got {len(weights)} tensors without "
            f"{error.args[0]}"
        ) from error
    except ValueError as error:
        raise ModelError(f"{source}: expected weights of a CLIP ResNet, but {error}") from error
