"""Sine position encodings of map cells and anchor boxes, as in DAB-DETR."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: As published: positions of map cells and of anchors have different temperatures, see `sine_features`.
MAP_TEMPERATURE = 20.0
ANCHOR_TEMPERATURE = 10_000.0


def sine_features(values: Tensor, *, features: int, temperature: float) -> Tensor:
    """Sine features of a coordinate (a position encoding): sine and cosine alternate, wavelengths grow geometrically.

    Args:
        values: [...] coordinate, 0..1 of the image.
        features: number of features, even.
        temperature: about the ratio of the longest to the shortest wavelength.

    Returns:
        [..., features] in -1..1, in the dtype of `values`.
    """
    exponents = torch.arange(0, features, 2, device=values.device, dtype=torch.float32) / features
    angles = (values.float() * (2 * math.pi)).unsqueeze(-1) / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(values.dtype)


def map_positions(extents_hw: Tensor, *, height: int, width: int, dim: int) -> Tensor:
    """Sine features of all cell centres of a padded map; coordinates are 0..1 of the unpadded image.

    Padded cells get coordinates above 1. Attention masks them, so padding changes no result.

    Args:
        extents_hw: [B, 2] (height, width) of each image in cells, without padding.
        height: rows of the padded map.
        width: columns of the padded map.
        dim: number of features, a multiple of 4: half for y, half for x.

    Returns:
        [B, height * width, dim], row by row, in the dtype of `extents_hw`.
    """
    batch = extents_hw.shape[0]
    cells = torch.arange(max(height, width), device=extents_hw.device, dtype=torch.float32) + 0.5
    extents = extents_hw.float()
    y = sine_features(cells[:height] / extents[:, :1], features=dim // 2, temperature=MAP_TEMPERATURE)
    x = sine_features(cells[:width] / extents[:, 1:], features=dim // 2, temperature=MAP_TEMPERATURE)
    y = y[:, :, None].expand(batch, height, width, dim // 2)
    x = x[:, None].expand(batch, height, width, dim // 2)
    return torch.cat([y, x], dim=-1).flatten(1, 2).to(extents_hw.dtype)


def anchor_positions(anchors_cxcywh: Tensor, *, features: int) -> Tensor:
    """Sine features of anchor boxes: of y, x, width and height, in this order.

    Args:
        anchors_cxcywh: [..., 4], 0..1 of the unpadded image.
        features: number of features per coordinate, even.

    Returns:
        [..., 4 * features].
    """
    x, y, width, height = anchors_cxcywh.unbind(-1)
    ordered = torch.stack([y, x, width, height], dim=-1)
    return sine_features(ordered, features=features, temperature=ANCHOR_TEMPERATURE).flatten(-2)
