"""The image towers of CLIP: they load CLIP's weights and can embed whole images, which a `TimmTower` cannot."""

from __future__ import annotations

from cora.towers.convnext_tower import ConvNeXtTower
from cora.towers.resnet_tower import ResNetTower

ClipTower = ResNetTower | ConvNeXtTower
