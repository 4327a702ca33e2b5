"""CLIP ViTs of open_clip and their text towers, with weights of OpenAI, open_clip or RemoteCLIP, for CLIP Surgery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transformer import VisionTransformer
from torch import Tensor

from cora.errors import ModelError
from cora.towers.build import activation, build_text_tower
from cora.towers.download import download_weights
from cora.towers.surgery import SURGERY_BLOCKS, VitSurgery
from cora.towers.text_tower import TextTower
from cora.towers.weights import load_checked, read_weights

#: The only fields that the `vision_cfg` and `text_cfg` of a supported ViT may have.
_VISION_FIELDS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT_FIELDS = {"context_length", "vocab_size", "width", "heads", "layers"}
_HEAD_WIDTH = 64  # open_clip's default


def known_vits() -> list[str]:
    """Names that `load_vit` accepts: the ViTs of open_clip with OpenAI's architecture."""
    return [name for name in open_clip.list_models() if name.startswith("ViT-") and _is_plain(name)]


def load_vit(
    name: str, pretrained: str | Path | None = "openai", *, layers: int = 1, blocks: int = SURGERY_BLOCKS
) -> tuple[VitSurgery, TextTower]:
    """Load a frozen ViT with surgery, and its text tower.

    Args:
        name: one of `known_vits()`. OpenAI's weights need one that ends in "-quickgelu"; RemoteCLIP's and most of
            open_clip's need one that does not.
        pretrained: a tag of open_clip, a file of tensors in open_clip's format (nothing but tensors is unpickled), or
            None for random weights.
        layers: number of last blocks whose tokens are returned.
        blocks: number of last blocks with surgery.

    Raises:
        ModelError: unknown name or tag, weights that cannot be downloaded, a file that does not fit.
    """
    if name not in known_vits():
        raise ModelError(f"unknown tower {name!r}: expected one of {', '.join(known_vits())}")
    config = open_clip.get_model_config(name)
    quick_gelu = bool(config.get("quick_gelu", False))
    if pretrained == "openai" and not quick_gelu:
        raise ModelError(f"tower {name!r}: OpenAI's weights need QuickGELU; take {name}-quickgelu")
    file = download_weights(name, pretrained) if isinstance(pretrained, str) else pretrained
    weights = None if file is None else read_weights(file)
    tower, text_tower = build_vit(
        vision=config["vision_cfg"],
        text=config["text_cfg"],
        embed_dim=config["embed_dim"],
        quick_gelu=quick_gelu,
        layers=layers,
        blocks=blocks,
    )
    if weights is not None:
        load_vit_weights(weights, tower, text_tower, source=str(file))
    return tower, text_tower


def build_vit(
    *,
    vision: dict[str, Any],
    text: dict[str, Any],
    embed_dim: int,
    quick_gelu: bool,
    layers: int = 1,
    blocks: int = SURGERY_BLOCKS,
) -> tuple[VitSurgery, TextTower]:
    """Build both towers with random weights from the `vision_cfg` and `text_cfg` of an open_clip configuration."""
    net = VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", _HEAD_WIDTH),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        output_dim=embed_dim,
        act_layer=activation(quick_gelu),
    )
    text_tower = build_text_tower(embed_dim=embed_dim, quick_gelu=quick_gelu, **text)
    return VitSurgery(net=net, blocks=blocks, layers=layers), text_tower


def load_vit_weights(weights: Mapping[str, Tensor], tower: VitSurgery, text_tower: TextTower, *, source: str) -> None:
    """Load a CLIP state dict with OpenAI's or open_clip's names, such as RemoteCLIP's, into both towers.

    Raises:
        ModelError: tensors are missing or of another shape.
    """
    image = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    text = {key.removeprefix("text."): value for key, value in weights.items() if not key.startswith("visual.")}
    for unused in ("logit_scale", "logit_bias", "attn_mask"):
        text.pop(unused, None)
    load_checked(tower.net, image, source=f"{source} (image tower)")
    load_checked(text_tower.net, text, source=f"{source} (text tower)")


def _is_plain(name: str) -> bool:
    config: dict[str, Any] = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"].keys(), config["text_cfg"].keys()
    known = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
    return bool(config.keys() <= known and vision <= _VISION_FIELDS and text <= _TEXT_FIELDS)
