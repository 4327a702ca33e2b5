"""Frozen image and text towers: CLIP's, built with open_clip, and timm backbones with a projection into a text space.

Start with `image_tower`, the interface, and `resnet_tower`, the paper's. `weights` loads CLIP's towers by name.
"""

from cora.towers.build import build_clip_towers, build_towers
from cora.towers.clip_tower import ClipTower
from cora.towers.config import LARGEST_POOL_SIZE, TemplateSet, TowerConfig
from cora.towers.convnext_tower import ConvNeXtTower
from cora.towers.frozen import FrozenModule
from cora.towers.image_tower import ImageTower
from cora.towers.known import default_tag, known_towers, tower_config
from cora.towers.resnet_tower import ResNetTower, interpolate_positions, resnet_of
from cora.towers.text_tower import TextTower, byte_pair_tokenizer
from cora.towers.timm_tower import TimmTower
from cora.towers.weights import load_towers

__all__ = [
    "LARGEST_POOL_SIZE",
    "ClipTower",
    "ConvNeXtTower",
    "FrozenModule",
    "ImageTower",
    "ResNetTower",
    "TemplateSet",
    "TextTower",
    "TimmTower",
    "TowerConfig",
    "build_clip_towers",
    "build_towers",
    "byte_pair_tokenizer",
    "default_tag",
    "interpolate_positions",
    "known_towers",
    "load_towers",
    "resnet_of",
    "tower_config",
]
