"""Frozen CLIP towers on open_clip: image tower, text tower, weights by name, tag or file."""

from cora.towers.build import build_towers
from cora.towers.config import TemplateSet, TowerConfig
from cora.towers.frozen import FrozenModule
from cora.towers.image_tower import ImageTower, interpolate_positions
from cora.towers.text_tower import TextTower, byte_pair_tokenizer
from cora.towers.weights import known_towers, load_towers, tower_config

__all__ = [
    "FrozenModule",
    "ImageTower",
    "TemplateSet",
    "TextTower",
    "TowerConfig",
    "build_towers",
    "byte_pair_tokenizer",
    "interpolate_positions",
    "known_towers",
    "load_towers",
    "tower_config",
]
