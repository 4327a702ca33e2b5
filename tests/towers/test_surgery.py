"""Surgery towers: frozen, of any grid, the same for every image of a batch, and what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cora.errors import ModelError
from cora.towers import ResNetTower
from cora.towers.surgery import SHARPENING, ResNetSurgery, VitSurgery, bilinear_positions

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make_vit(*, layers: int = 1, blocks: int = 2) -> VitSurgery:
    torch.manual_seed(0)
    net = VisionTransformer(image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_ratio=2, output_dim=8)
    return VitSurgery(net=net, layers=layers, blocks=blocks)


def make_resnet(*, layers: int = 1, sharpened: bool = True) -> ResNetSurgery:
    torch.manual_seed(0)
    net = ModifiedResNet(layers=[1, 1, 1, 2], output_dim=8, heads=2, image_size=64, width=4)
    # A fresh network ends its blocks in zeros, a trained one does not.
    for block in net.layer4:
        nn.init.ones_(block.bn3.weight)
    return ResNetSurgery(tower=ResNetTower(net=net, pool_size=2), layers=layers, sharpened=sharpened)


TOWERS = [pytest.param(make_vit, id="vit"), pytest.param(make_resnet, id="resnet")]


@pytest.mark.parametrize("make", TOWERS)
def test_shapes_of_a_grid_that_is_not_square(make) -> None:  # type: ignore[no-untyped-def]
    tower = make(layers=2)
    found = tower(torch.randn(2, 3, 2 * tower.stride, 3 * tower.stride))
    assert found.grid_hw == (2, 3)
    assert found.tokens.shape == (2, 2, 1 + 6, tower.embed_dim)
    assert found.features.shape == (2, 6, tower.feature_width)


def transposed(tower: nn.Module) -> None:
    """Exchange rows and columns in every weight that knows them."""
    for name, value in tower.named_parameters():
        if value.ndim == 4:
            value.data = value.data.transpose(2, 3).contiguous()
        elif name.endswith("positional_embedding"):
            side = round((len(value) - 1) ** 0.5)
            cells = value.data[1:].unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1)
            value.data = torch.cat([value.data[:1], cells])


@pytest.mark.parametrize("make", TOWERS)
def test_rows_and_columns_are_treated_alike(make) -> None:  # type: ignore[no-untyped-def]
    tower, turned = make(layers=2), make(layers=2)
    transposed(turned)
    pixels = torch.randn(1, 3, 2 * tower.stride, 5 * tower.stride)
    found, other = tower(pixels), turned(pixels.transpose(2, 3))
    assert other.grid_hw == found.grid_hw[::-1]
    cells = found.tokens[:, :, 1:].unflatten(2, (2, 5)).transpose(2, 3).flatten(2, 3)
    torch.testing.assert_close(other.tokens[:, :, :1], found.tokens[:, :, :1], **CLOSE)
    torch.testing.assert_close(other.tokens[:, :, 1:], cells, **CLOSE)


@pytest.mark.parametrize("make", TOWERS)
def test_images_of_a_batch_do_not_mix(make) -> None:  # type: ignore[no-untyped-def]
    tower = make()
    pixels = torch.randn(3, 3, 2 * tower.stride, 2 * tower.stride)
    together = tower(pixels)
    for row in range(3):
        alone = tower(pixels[row : row + 1])
        torch.testing.assert_close(together.tokens[:, row : row + 1], alone.tokens, **CLOSE)
        torch.testing.assert_close(together.features[row : row + 1], alone.features, **CLOSE)


@pytest.mark.parametrize("make", TOWERS)
def test_more_layers_end_in_the_same_last_one(make) -> None:  # type: ignore[no-untyped-def]
    one, two = make(layers=1), make(layers=2)
    pixels = torch.randn(1, 3, 2 * one.stride, 2 * one.stride)
    torch.testing.assert_close(two(pixels).tokens[-1:], one(pixels).tokens, **CLOSE)
    assert not torch.allclose(two(pixels).tokens[0], two(pixels).tokens[1])
    assert one.setting != two.setting


@pytest.mark.parametrize("make", TOWERS)
def test_towers_are_frozen_and_keep_their_tables(make) -> None:  # type: ignore[no-untyped-def]
    tower = make().train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    assert not tower.training
    assert not any(value.requires_grad for value in tower.parameters())
    tower(torch.randn(1, 3, 3 * tower.stride, 2 * tower.stride))
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_class_token_of_a_vit_is_the_original_one() -> None:
    tower = make_vit()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(pixels).tokens[-1, :, 0], tower.net(pixels), **CLOSE)


@pytest.mark.parametrize("sharpened", [False, True])
def test_pool_attends_by_values(sharpened: bool) -> None:
    tower = make_resnet(sharpened=sharpened)
    pixels = torch.randn(1, 3, 64, 96)
    pool, net = tower.tower.attention_pool, tower.tower.net
    cells = net.layer4(tower.tower.encode_c3(pixels)).flatten(2)[0].T
    tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells]) + bilinear_positions(pool.positional_embedding, (2, 3))
    expected = torch.zeros_like(tokens)
    width = tokens.shape[1] // pool.num_heads
    for head in range(pool.num_heads):
        values = pool.v_proj(tokens)[:, head * width : (head + 1) * width]
        unit = F.normalize(values, dim=-1)
        plain = (values @ values.T / width**0.5).softmax(dim=-1) @ values
        sharp = (SHARPENING * unit @ unit.T / width**0.5).softmax(dim=-1) @ values
        patches = sharp if sharpened else plain
        expected[:, head * width : (head + 1) * width] = torch.cat([plain[:1], patches[1:]])
    torch.testing.assert_close(tower(pixels).tokens[0, 0], pool.c_proj(expected), **CLOSE)


@given(side=st.integers(1, 5), height=st.integers(1, 6), width=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_interpolated_positions(side: int, height: int, width: int) -> None:
    table = torch.randn(side**2 + 1, 3)
    found = bilinear_positions(table, (height, width))
    assert found.shape == (height * width + 1, 3)
    assert torch.equal(found[0], table[0])
    assert float(found[1:].max()) <= float(table[1:].max()) + 1e-5
    constant = bilinear_positions(torch.ones_like(table), (height, width))
    torch.testing.assert_close(constant, torch.ones_like(constant))
    assert torch.equal(bilinear_positions(table, (side, side)), table)


@pytest.mark.parametrize("make", TOWERS)
def test_pixels_that_do_not_fit(make) -> None:  # type: ignore[no-untyped-def]
    tower = make()
    for pixels in (torch.zeros(1, 3, tower.stride + 1, tower.stride), torch.zeros(3, tower.stride, tower.stride)):
        with pytest.raises(ValueError, match=f"multiples of {tower.stride}, got"):
            tower(pixels)


def test_layers_that_there_are_not() -> None:
    with pytest.raises(ModelError, match="expected 1 to 2 layers, the blocks of the tower's layer4, got 3"):
        make_resnet(layers=3)
    with pytest.raises(ModelError, match="the blocks of the tower, got 3 layers and 2 blocks"):
        make_vit(layers=3)
    with pytest.raises(ModelError, match="got 1 layers and 4 blocks"):
        make_vit(blocks=4)
    net = VisionTransformer(
        image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_ratio=2, output_dim=8, pool_type="avg"
    )
    with pytest.raises(ModelError, match="expected a CLIP ViT that projects its class token"):
        VitSurgery(net=net, blocks=2)


def gradient(tower: nn.Module, pixels: Tensor) -> Tensor:
    pixels = pixels.clone().requires_grad_()
    tower(pixels).tokens.square().sum().backward()
    assert pixels.grad is not None
    return pixels.grad


@pytest.mark.parametrize("make", TOWERS)
def test_gradients_pass_to_the_pixels_only(make) -> None:  # type: ignore[no-untyped-def]
    tower = make()
    assert float(gradient(tower, torch.randn(1, 3, 2 * tower.stride, 2 * tower.stride)).abs().sum()) > 0
    assert all(value.grad is None for value in tower.parameters())
