"""Build towers from a `TowerConfig`, with random weights that training or a checkpoint replaces."""

from __future__ import annotations

from typing import cast

from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from cora.errors import ModelError
from cora.towers.clip_tower import ClipTower
from cora.towers.config import TowerConfig
from cora.towers.convnext_tower import ConvNeXtNet, ConvNeXtTower
from cora.towers.image_tower import ImageTower
from cora.towers.nanodet import NanoDet
from cora.towers.resnet_tower import ResNetTower
from cora.towers.text_space import FineHead, TextSpaceHead
from cora.towers.text_tower import TextTower
from cora.towers.timm_tower import FINE_STRIDE, TimmTower, build_backbone, tap_levels


def build_towers(config: TowerConfig) -> tuple[ImageTower, TextTower]:
    """Build both towers with open_clip's random initialisation, frozen.

    Examples:
        >>> config = TowerConfig(layers=(1, 1, 1, 1), width=8, embed_dim=64, text_width=64, text_layers=1)
        >>> image_tower, text_tower = build_towers(config)
        >>> text_tower.encode(["a cup"]).shape
        torch.Size([1, 64])
    """
    # Image tower first: the order in which weights are drawn must not change, or a seed would give other weights.
    image_tower = _timm_tower(config) if config.backbone else _clip_tower(config)
    return image_tower, _text_tower(config)


def build_clip_towers(config: TowerConfig) -> tuple[ClipTower, TextTower]:
    """Build both towers of a CLIP, whose weights fit them.

    Raises:
        ModelError: the configuration has a timm backbone.
    """
    if config.backbone:
        raise ModelError(f"weights of CLIP: expected a tower without a timm backbone, got {config.backbone}")
    return _clip_tower(config), _text_tower(config)


def _text_tower(config: TowerConfig) -> TextTower:
    return build_text_tower(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
        embed_dim=config.embed_dim,
        quick_gelu=config.quick_gelu,
    )


def build_text_tower(*, embed_dim: int, quick_gelu: bool, **sizes: int) -> TextTower:
    """Build a CLIP text tower with random weights.

    Args:
        embed_dim: width D of the embeddings.
        quick_gelu: whether the activation is OpenAI's approximation of GELU.
        **sizes: context_length, vocab_size, width, heads and layers of open_clip's `TextTransformer`.
    """
    return TextTower(net=TextTransformer(output_dim=embed_dim, act_layer=activation(quick_gelu), **sizes))


def activation(quick_gelu: bool) -> type[nn.Module]:
    """Class of the activation in CLIP's transformers."""
    return QuickGELU if quick_gelu else nn.GELU


def _clip_tower(config: TowerConfig) -> ClipTower:
    if config.family == "resnet":
        return _resnet_tower(config)
    net = ConvNeXtNet(
        layers=config.layers,
        width=config.width,
        embed_dim=config.embed_dim,
        projection=config.projection,
        norm_eps=config.norm_eps,
    )
    return ConvNeXtTower(net=net, pool_size=config.pool_size)


def _resnet_tower(config: TowerConfig) -> ResNetTower:
    net = ModifiedResNet(
        layers=list(config.layers),
        output_dim=config.embed_dim,
        heads=config.pool_heads,
        image_size=config.image_size,
        width=config.width,
    )
    return ResNetTower(net=net, pool_size=config.pool_size)


def _timm_tower(config: TowerConfig) -> TimmTower:
    net = build_backbone(config.backbone)
    text_space = TextSpaceHead(
        features=int(cast(int, net.num_features)),
        labels=config.labels,
        embed_dim=config.embed_dim,
        hidden=config.text_space_hidden,
    )
    detector = NanoDet() if config.detector == "nanodet" else None
    fine = None
    if config.fine_bins:
        channels = dict(tap_levels(net, config.taps))[FINE_STRIDE]
        fine = FineHead(channels=channels, bins=config.fine_bins, embed_dim=config.embed_dim, hidden=config.fine_hidden)
    return TimmTower(
        net=net,
        taps=config.taps,
        text_space=text_space,
        detector=detector,
        box_stages=config.box_stages,
        fine=fine,
        looks=config.detector_looks,
        pool_size=config.pool_size,
    )
