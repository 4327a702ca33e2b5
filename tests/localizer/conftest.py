"""A localizer small enough for every test, with weights that make a difference."""

import pytest
import torch
from torch import Tensor

from cora.localizer import Localizer, LocalizerConfig
from cora.structures import FeatureMap

CONFIG = LocalizerConfig(
    c3_channels=6,
    embed_dim=10,
    dim=16,
    heads=2,
    ff=24,
    enc_layers=2,
    dec_layers=3,
    num_queries=7,
    class_hidden=8,
)


def random_localizer(config: LocalizerConfig = CONFIG, seed: int = 0) -> Localizer:
    torch.manual_seed(seed)
    localizer = Localizer.from_config(config)
    with torch.no_grad():
        for value in localizer.parameters():  # box heads start at zero: every layer would say the same
            value.add_(0.1 * torch.randn_like(value))
    return localizer.eval()


@pytest.fixture
def localizer() -> Localizer:
    return random_localizer()


def random_map(batch: int = 2, height: int = 5, width: int = 4, *, padded: bool = True) -> FeatureMap:
    """Maps of which the second and later ones are padded at the bottom and right."""
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    if padded:
        mask[1:, -2:] = True
        mask[1:, :, -1] = True
    return FeatureMap(torch.randn(batch, CONFIG.c3_channels, height, width), mask)


def random_queries(batch: int = 2, count: int = 7) -> tuple[Tensor, Tensor]:
    """Anchors [B, N, 4] and content [B, N, dim]."""
    return torch.rand(batch, count, 4) * 0.8 + 0.1, torch.randn(batch, count, CONFIG.dim)
