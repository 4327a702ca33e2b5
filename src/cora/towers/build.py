"""Towers from numbers: random weights, to be trained or loaded over."""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from cora.towers.config import TowerConfig
from cora.towers.image_tower import ImageTower
from cora.towers.text_tower import TextTower


def build_towers(config: TowerConfig) -> tuple[ImageTower, TextTower]:
    """Build both towers with open_clip's random initialisation, frozen.

    Example:
        >>> image_tower, text_tower = build_towers(TowerConfig(layers=(1, 1, 1, 1), width=8, embed_dim=64))
    """
    image_net = ModifiedResNet(
        layers=list(config.layers),
        output_dim=config.embed_dim,
        heads=config.pool_heads,
        image_size=config.image_size,
        width=config.width,
    )
    text_net = TextTransformer(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
        output_dim=config.embed_dim,
        act_layer=QuickGELU if config.quick_gelu else nn.GELU,
    )
    return ImageTower(net=image_net, pool_size=config.pool_size), TextTower(net=text_net)
