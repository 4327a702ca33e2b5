"""The image towers that are a CLIP's own: weights of CLIP fit them, and they embed whole images, too."""

from __future__ import annotations

from cora.towers.convnext_tower import ConvNeXtTower
from cora.towers.resnet_tower import ResNetTower

ClipTower = ResNetTower | ConvNeXtTower
