"""Region embeddings of towers that pool before their head: what the prompt does, and which way boxes come."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from cora.boxes import scale_to_pixels
from cora.regions.cell_pooling import cell_map, cell_pooling
from cora.roi_align import roi_align
from cora.structures import FeatureMap
from cora.towers import TimmTower
from tests.tolerances import assert_near
from tests.toy_nano import toy_tower


@pytest.fixture(scope="module", params=[True, False], ids=["with NanoDet", "alone"])
def tower(request: pytest.FixtureRequest) -> TimmTower:
    return toy_tower(detector=request.param)


def made(tower: TimmTower) -> FeatureMap:
    """Maps of two images, the second padded."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 96, 128, generator=random)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, :, 96:] = True
    with torch.no_grad():
        return tower.maps(pixels, mask)[0]


def boxes(count: int = 5) -> Tensor:
    random = torch.Generator().manual_seed(1)
    centres, sizes = (torch.rand(2, count, 2, generator=random) for _ in range(2))
    some = torch.cat([0.2 + 0.6 * centres, 0.05 + 0.9 * sizes], dim=-1)
    some[:, 0] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    return some


def embed(tower: TimmTower, chosen: Tensor | list[Tensor], prompt: Tensor) -> Tensor:
    with torch.no_grad():
        return cell_pooling(cell_map(made(tower), tower), chosen, tower=tower, prompt=prompt)


def test_two_prompts_of_equal_mean_differ(tower: TimmTower) -> None:
    first = torch.randn(tower.prompt_shape)
    second = first.roll(1, dims=0) * 1.0
    torch.testing.assert_close(first.mean(0), second.mean(0))
    assert (embed(tower, boxes(), first) - embed(tower, boxes(), second)).abs().max() > 1e-3
    flat = first.mean(0, keepdim=True).expand_as(first)
    assert (embed(tower, boxes(), first) - embed(tower, boxes(), flat)).abs().max() > 1e-3


@torch.no_grad()
def test_a_zero_prompt_is_none(tower: TimmTower) -> None:
    found = embed(tower, boxes(), tower.positions)
    c3 = made(tower)
    cells = cell_map(c3, tower)
    side = tower.pool_size
    corners = scale_to_pixels(boxes(), c3.extents_hw)
    pooled = torchvision_roi_align(tower.deep(c3.features), list(corners), (side, side), aligned=True)
    assert found.norm(dim=-1).sub(1).abs().max() < 1e-5
    if cells.top_boxes is None:
        torch.testing.assert_close(found, tower.embed(tower.head(pooled), None), rtol=1e-3, atol=1e-4)
    else:
        assert (found - tower.embed(tower.head(pooled), None)).abs().max() > 1e-3  # the detector has its say


@pytest.mark.parametrize(("height", "width", "bins"), [(3, 4, 3), (12, 17, 4), (5, 31, 14)])
def test_roi_align_is_torchvisions(height: int, width: int, bins: int) -> None:
    features = torch.randn(2, 6, height, width)
    extents = torch.tensor([[height, width], [height - 1, width - 2]], dtype=torch.float32)
    expected = torchvision_roi_align(features, list(scale_to_pixels(boxes(9), extents)), (bins, bins), aligned=True)
    torch.testing.assert_close(
        roi_align(features, boxes(9), extents, bins=bins).flatten(0, 1), expected, rtol=0, atol=5e-5
    )


def test_boxes_in_lists_and_in_a_batch(tower: TimmTower) -> None:
    prompt = 0.1 * torch.randn(tower.prompt_shape)
    batch = embed(tower, boxes(), prompt)
    assert_near(embed(tower, list(boxes()), prompt), batch)
    uneven = embed(tower, [boxes()[0, :2], boxes()[1]], prompt)
    assert_near(uneven, torch.cat([batch[:2], batch[5:]]))
    none = embed(tower, [boxes()[0, :0], boxes()[1, :0]], prompt)
    assert none.shape == (0, tower.embed_dim)
    half = embed(tower, [boxes()[0], boxes()[1, :0]], prompt)
    assert_near(half, batch[:5])
    many = embed(tower, boxes().repeat(1, 60, 1), prompt)  # more than one chunk
    assert_near(many.view(2, 60, 5, -1)[:, 59].flatten(0, 1), batch)
    with pytest.raises(ValueError, match="expected boxes for 2 images, got 1"):
        embed(tower, boxes()[:1], prompt)


def test_gradients_reach_the_prompt_and_nothing_else(tower: TimmTower) -> None:
    prompt = torch.zeros(tower.prompt_shape, requires_grad=True)
    embeddings = cell_pooling(cell_map(made(tower), tower), boxes(), tower=tower, prompt=prompt)
    embeddings[:, 0].sum().backward()
    assert prompt.grad is not None
    assert bool((prompt.grad.abs().sum(1) > 0).all())  # every cell
    assert all(value.grad is None for value in tower.parameters())
