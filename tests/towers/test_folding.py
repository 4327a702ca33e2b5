"""The inference copy of a tower: the same function, and the tower itself untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cora.structures import ImageBatch
from cora.towers import ResNetTower, TowerConfig, build_towers
from cora.towers.folding import fold_batch_norms, inference_dtype
from tests.tolerances import assert_near

CONFIG = TowerConfig(
    layers=(1, 2, 1, 1), width=8, image_size=64, embed_dim=16, text_width=16, text_heads=1, text_layers=1
)


@pytest.fixture
def tower() -> ResNetTower:
    """With batch statistics that are not those of a fresh tower, else folding could leave them out unseen."""
    torch.manual_seed(0)
    tower, _ = build_towers(CONFIG)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return tower


@pytest.fixture
def batch() -> ImageBatch:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return ImageBatch(pixels, torch.zeros(2, 64, 96, dtype=torch.bool), ((64, 96),) * 2, ((64, 96),) * 2)


def test_folding_changes_rounding_only(tower: ResNetTower, batch: ImageBatch) -> None:
    folded = tower.for_inference(torch.float32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for mine, its in zip(tower.features(batch), folded.features(batch), strict=True):
        assert_near(its.features, mine.features)
        assert torch.equal(its.mask, mine.mask)


def test_half_precision_is_near(tower: ResNetTower, batch: ImageBatch) -> None:
    halved = tower.for_inference(torch.bfloat16)
    for mine, its in zip(tower.features(batch), halved.features(batch), strict=True):
        assert its.features.dtype == torch.bfloat16
        assert (its.features.float() - mine.features).norm() < 0.03 * mine.features.norm()


def test_the_tower_itself_stays(tower: ResNetTower) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    copied = tower.for_inference(torch.bfloat16)
    assert tower.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert not any(value.requires_grad for value in copied.parameters())


def test_a_norm_without_its_convolution_stays() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(module[3].running_var, 0.5, 2.0)
    pixels = torch.randn(1, 3, 5, 5)
    expected = module(pixels)
    with torch.no_grad():
        fold_batch_norms(module)
    assert isinstance(module[0], nn.BatchNorm2d)
    assert isinstance(module[3], nn.Identity)
    torch.testing.assert_close(module(pixels), expected)


def test_precisions_by_name() -> None:
    cpu = torch.device("cpu")
    assert inference_dtype("float32", cpu) == torch.float32
    assert inference_dtype("float16", cpu) == torch.float16
    assert inference_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert inference_dtype("auto", torch.device("meta")) == torch.float32
    with pytest.raises(ValueError, match="expected one of auto, float32, bfloat16, float16, got 'int8'"):
        inference_dtype("int8", cpu)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_is_near_on_a_gpu(tower: ResNetTower, batch: ImageBatch) -> None:
    device = torch.device("cuda")
    halved = tower.to(device).for_inference(inference_dtype("auto", device))
    mine, its = tower.features(batch.to(device))[0].features, halved.features(batch.to(device))[0].features
    assert (its.float() - mine).norm() < 0.03 * mine.norm()
