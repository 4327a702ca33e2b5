"""The toy detector of the tests: one factory, sizes by name, weights that depend on the seed only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cora.detector import Detector, DetectorConfig
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig

_TOWER: dict[str, Any] = {
    "layers": (1, 1, 1, 1),
    "width": 8,
    "image_size": 64,
    "embed_dim": 16,
    "text_width": 16,
    "text_heads": 2,
    "text_layers": 1,
    "templates": "plain",
}
#: What makes the tower of a toy a ConvNeXt.
CONVNEXT: dict[str, Any] = {"family": "convnext", "layers": (1, 1, 1, 2), "quick_gelu": False}
_LOCALIZER: dict[str, Any] = {"dim": 16, "heads": 2, "ff": 16, "enc_layers": 1, "dec_layers": 1, "num_queries": 20}


def toy_config(
    *, tower: Mapping[str, Any] | None = None, localizer: Mapping[str, Any] | None = None, **parts: Any
) -> DetectorConfig:
    """Sizes of a toy on a CLIP ResNet, or on a ConvNeXt where `tower` says so (`CONVNEXT`).

    Args:
        tower: what differs from the usual sizes of the towers.
        localizer: what differs from the usual sizes of the localizer; its widths follow from the tower.
        parts: the other parts of the configuration.
    """
    towers = TowerConfig(**{**_TOWER, **(tower or {})})
    widths = {"embed_dim": towers.embed_dim, "c3_channels": towers.c3_channels}
    return DetectorConfig(
        tower=towers, localizer=LocalizerConfig(**{**_LOCALIZER, **widths, **(localizer or {})}), **parts
    )


def toy_detector(
    config: DetectorConfig, cache_dir: Path | None = None, *, seed: int = 0, residual: float = 0.0, heads: float = 0.0
) -> Detector:
    """A detector with random weights, in evaluation mode.

    Args:
        config: its sizes.
        cache_dir: folder of cached class embeddings.
        seed: of all weights.
        residual: weight of every residual branch of the tower. It is (almost) zero in a fresh tower: all images look
            the same.
        heads: spread of the weights of the heads for boxes and objectness. It is zero in a fresh localizer: all boxes
            are anchors.
    """
    torch.manual_seed(seed)
    detector = Detector.build(config, cache_dir=cache_dir)
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if residual and name.endswith(("bn3.weight", "gamma")):
                value.fill_(residual)
            if heads and ("box_heads" in name or name.startswith("localizer.objectness_head")):
                value.normal_(0, heads)
    return detector.eval()
