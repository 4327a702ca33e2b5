"""Regions of ConvNeXts: equal to the plain formulas, independent of order and number; the prompt's shape counts."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import scale_to_pixels
from cora.regions import region_pooling
from cora.towers import ConvNeXtTower, TowerConfig, build_towers
from tests.regions.test_pooling import BOXES, maps
from tests.test_roi_align import random_boxes
from tests.tolerances import assert_near
from tests.toys import CONVNEXT

CONFIG = TowerConfig(**CONVNEXT, width=8, image_size=96, embed_dim=32, text_width=32, text_heads=1, text_layers=1)
KINDS = pytest.mark.parametrize("kind", ["exact", "fast"])


@pytest.fixture(scope="module")
def tower() -> ConvNeXtTower:
    torch.manual_seed(3)
    tower, _ = build_towers(CONFIG)
    assert isinstance(tower, ConvNeXtTower)
    for value in tower.parameters():  # the blocks of a fresh tower have almost no effect
        torch.nn.init.normal_(value, std=0.3)
    return tower


def noise(tower: ConvNeXtTower) -> Tensor:
    return torch.randn(tower.prompt_shape, generator=torch.Generator().manual_seed(2))


def pool(
    tower: ConvNeXtTower,
    kind: str,
    boxes: Tensor | list[Tensor],
    *,
    prompt: Tensor | None = None,
    static: bool = False,
    padding: int = 0,
) -> Tensor:
    pooling, prompt = region_pooling(tower, static=static), tower.positions if prompt is None else prompt
    if kind == "exact":
        return pooling.exact(maps(tower.c3_channels, padding=padding), boxes, prompt)
    return pooling.fast(pooling.prepare(maps(tower.c4_channels, padding=padding)), boxes, prompt)


@torch.no_grad()
def test_exact_pooling_is_the_last_stage_on_the_region(tower: ConvNeXtTower) -> None:
    c3, trunk = maps(tower.c3_channels), tower.net.trunk
    rois = [scale_to_pixels(BOXES, (8, 9))] * 2
    cells = trunk.stages[3](roi_align(c3.features, rois, (6, 6), aligned=True))
    expected = F.normalize(tower.net.head(trunk.forward_head(cells)), dim=-1)
    torch.testing.assert_close(pool(tower, "exact", BOXES.expand(2, 4, 4)), expected)


@torch.no_grad()
def test_fast_pooling_is_the_mean_of_the_region_in_the_finished_map(tower: ConvNeXtTower) -> None:
    c4, prompt = maps(tower.c4_channels), noise(tower)
    rois = [scale_to_pixels(BOXES, (8, 9))] * 2
    cells = roi_align(tower.last_block(c4.features), rois, (3, 3), aligned=True)
    pooled = cells.mean(dim=(2, 3))
    torch.testing.assert_close(pool(tower, "fast", BOXES.expand(2, 4, 4)), tower.head(pooled))
    for image in range(2):
        mean = c4.features[image].mean(dim=(1, 2))[None, :, None, None].expand(-1, -1, 3, 3)
        prompted = tower.last_block(mean + prompt.T.reshape(1, -1, 3, 3)) - tower.last_block(mean)
        mine = slice(4 * image, 4 * image + 4)
        found = pool(tower, "fast", BOXES.expand(2, 4, 4), prompt=prompt)[mine]
        torch.testing.assert_close(found, tower.head(pooled[mine] + prompted.mean(dim=(2, 3))))


@KINDS
def test_two_prompts_of_equal_mean_differ(tower: ConvNeXtTower, kind: str) -> None:
    first = noise(tower)
    flat = first.mean(0, keepdim=True).expand_as(first)
    other = 2 * flat - first
    torch.testing.assert_close(first.mean(0), other.mean(0))
    boxes = BOXES.expand(2, 4, 4)
    with torch.no_grad():
        found = [pool(tower, kind, boxes, prompt=prompt) for prompt in (first, flat, other)]
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (found[0] - found[2]).abs().max() > 1e-3


@KINDS
def test_every_entry_of_the_prompt_learns(tower: ConvNeXtTower, kind: str) -> None:
    prompt = torch.zeros(tower.prompt_shape, requires_grad=True)
    found = pool(tower, kind, BOXES.expand(2, 4, 4), prompt=prompt)
    (found @ torch.randn(32, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert prompt.grad is not None
    assert bool((prompt.grad != 0).all())
    assert all(value.grad is None for value in tower.parameters())


@KINDS
@torch.no_grad()
def test_regions_do_not_depend_on_order(tower: ConvNeXtTower, kind: str) -> None:
    prompt = noise(tower)
    expected = pool(tower, kind, BOXES.expand(2, 4, 4), prompt=prompt)
    flipped = pool(tower, kind, BOXES.flip(0).expand(2, 4, 4), prompt=prompt)
    torch.testing.assert_close(flipped, expected.view(2, 4, -1).flip(1).flatten(0, 1))
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(8))


@KINDS
@torch.no_grad()
def test_images_may_have_different_numbers_of_boxes(tower: ConvNeXtTower, kind: str) -> None:
    expected = pool(tower, kind, BOXES.expand(2, 4, 4))
    torch.testing.assert_close(pool(tower, kind, [BOXES, BOXES[:0]]), expected[:4])
    torch.testing.assert_close(pool(tower, kind, [BOXES[:1], BOXES]), expected[[0, 4, 5, 6, 7]])
    assert pool(tower, kind, [BOXES[:0], BOXES[:0]]).shape == (0, 32)
    with pytest.raises(ValueError, match="expected boxes for 2 images, got 1"):
        pool(tower, kind, [BOXES])


@KINDS
@torch.no_grad()
def test_static_pooling_is_the_eager_one(tower: ConvNeXtTower, kind: str) -> None:
    boxes, prompt = random_boxes(70), noise(tower)  # more than one chunk
    static = pool(tower, kind, boxes, prompt=prompt, static=True, padding=3)
    assert_near(static, pool(tower, kind, boxes, prompt=prompt, padding=3))
