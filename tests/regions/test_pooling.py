"""Poolings: equal to the plain formulas, independent of chunks, order and padding; the prompt learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import scale_to_pixels
from cora.regions import RegionClassifier, RegionPrompt, exact_pooling, fast_pooling, project_map, region_pooling
from cora.structures import FeatureMap
from cora.towers import ResNetTower, TowerConfig, build_towers
from tests.test_roi_align import random_boxes
from tests.tolerances import assert_near

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=96, embed_dim=32, text_width=32, text_heads=1, text_layers=1
)
BOXES = torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.6, 0.2, 0.3], [0.7, 0.4, 0.9, 0.9], [0.1, 0.1, 0.01, 0.01]])


@pytest.fixture(scope="module")
def tower() -> ResNetTower:
    torch.manual_seed(3)
    tower, _ = build_towers(CONFIG)
    for name, value in tower.state_dict().items():
        if name.endswith(("bn3.weight", "proj.bias")):  # zero in a fresh tower
            torch.nn.init.uniform_(value, 0.2, 1.0)
    return tower


def maps(channels: int, *, padding: int = 0, seed: int = 5) -> FeatureMap:
    """Two maps of 8 x 9 cells; `padding` more columns and rows hold other numbers."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.full((2, channels, 8 + padding, 9 + padding), 7.0)
    features[:, :, :8, :9] = torch.rand(2, channels, 8, 9, generator=generator)
    mask = torch.ones(2, 8 + padding, 9 + padding, dtype=torch.bool)
    mask[:, :8, :9] = False
    return FeatureMap(features, mask)


def exact(tower: ResNetTower, c3: FeatureMap, boxes: Tensor | list[Tensor], *, chunk_size: int = 128) -> Tensor:
    return exact_pooling(
        c3,
        boxes,
        layer4=tower.layer4,
        attention_pool=tower.attention_pool,
        positions=tower.attention_pool.positional_embedding,
        chunk_size=chunk_size,
    )


def fast(tower: ResNetTower, c4: FeatureMap, boxes: Tensor | list[Tensor], *, chunk_size: int = 256) -> Tensor:
    return fast_pooling(
        project_map(c4, tower.attention_pool),
        boxes,
        attention_pool=tower.attention_pool,
        positions=tower.attention_pool.positional_embedding,
        chunk_size=chunk_size,
    )


def pool(
    tower: ResNetTower, kind: str, boxes: Tensor | list[Tensor], *, padding: int = 0, chunk_size: int = 64
) -> Tensor:
    channels = tower.c3_channels if kind == "exact" else tower.c4_channels
    function = exact if kind == "exact" else fast
    return function(tower, maps(channels, padding=padding), boxes, chunk_size=chunk_size)


def test_exact_pooling_is_the_towers_own_pool_on_the_region(tower: ResNetTower) -> None:
    c3 = maps(tower.c3_channels)
    rois = [scale_to_pixels(BOXES, (8, 9))] * 2
    cells = tower.layer4(roi_align(c3.features, rois, (6, 6), aligned=True))
    expected = F.normalize(tower.attention_pool(cells), dim=-1)
    torch.testing.assert_close(exact(tower, c3, BOXES.expand(2, 4, 4)), expected)


def test_fast_pooling_is_attention_over_the_projected_map(tower: ResNetTower) -> None:
    c4, attention = maps(tower.c4_channels), tower.attention_pool
    rois = [scale_to_pixels(BOXES, (8, 9))] * 2

    def projected(linear: torch.nn.Linear) -> tuple[Tensor, Tensor]:
        dense = linear(c4.features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        cells = roi_align(dense, rois, (3, 3), aligned=True).flatten(2).transpose(1, 2)
        return cells, F.linear(attention.positional_embedding, linear.weight)

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    (queries, q_at), (keys, k_at), (values, v_at) = map(
        projected, (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query = queries.mean(dim=1, keepdim=True) + q_at[:1]
    found = F.scaled_dot_product_attention(heads(query), heads(keys + k_at[1:]), heads(values + v_at[1:]))
    expected = F.normalize(attention.c_proj(found.flatten(1)), dim=-1)
    torch.testing.assert_close(fast(tower, c4, BOXES.expand(2, 4, 4)), expected)


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_regions_do_not_depend_on_chunks_or_order(tower: ResNetTower, kind: str) -> None:
    expected = pool(tower, kind, BOXES.expand(2, 4, 4))
    torch.testing.assert_close(pool(tower, kind, BOXES.expand(2, 4, 4), chunk_size=3), expected)
    torch.testing.assert_close(
        pool(tower, kind, BOXES.flip(0).expand(2, 4, 4)), expected.view(2, 4, -1).flip(1).flatten(0, 1)
    )
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(8))


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_static_pooling_is_the_eager_one(tower: ResNetTower, kind: str) -> None:
    boxes = random_boxes(70)  # more than one chunk
    channels = tower.c3_channels if kind == "exact" else tower.c4_channels
    map_, positions = maps(channels, padding=3), tower.attention_pool.positional_embedding
    eager, static = region_pooling(tower), region_pooling(tower, static=True)
    with torch.no_grad():
        if kind == "exact":
            assert_near(static.exact(map_, boxes, positions), eager.exact(map_, boxes, positions))
        else:
            prepared = static.prepare(map_)
            assert_near(static.fast(prepared, boxes, positions), eager.fast(prepared, boxes, positions))


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_images_may_have_different_numbers_of_boxes(tower: ResNetTower, kind: str) -> None:
    expected = pool(tower, kind, BOXES.expand(2, 4, 4))
    torch.testing.assert_close(pool(tower, kind, [BOXES, BOXES[:0]]), expected[:4])
    torch.testing.assert_close(pool(tower, kind, [BOXES[:1], BOXES]), expected[[0, 4, 5, 6, 7]])
    assert pool(tower, kind, [BOXES[:0], BOXES[:0]]).shape == (0, 32)
    with pytest.raises(ValueError, match="boxes for 2 images, got 1"):
        pool(tower, kind, [BOXES])


@pytest.mark.parametrize("kind", ["exact", "fast"])
@settings(max_examples=15, deadline=None)
@given(
    padding=st.integers(1, 9),
    centre=st.tuples(st.floats(0.45, 0.55), st.floats(0.45, 0.55)),
    size=st.tuples(st.floats(0.05, 0.7), st.floats(0.05, 0.7)),
)
def test_padding_changes_no_region_inside_the_image(
    tower: ResNetTower, kind: str, padding: int, centre: tuple[float, float], size: tuple[float, float]
) -> None:
    # Only cells at the very edge are interpolated with what lies beyond it.
    box = torch.tensor([[*centre, *size]])
    torch.testing.assert_close(
        pool(tower, kind, box.expand(2, 1, 4), padding=padding), pool(tower, kind, box.expand(2, 1, 4))
    )


def test_prompt_starts_at_nothing_and_learns(tower: ResNetTower) -> None:
    prompt = RegionPrompt(cells=tower.prompt_shape[0], channels=tower.prompt_shape[1])
    positions = tower.attention_pool.positional_embedding
    assert torch.equal(prompt(positions), positions)
    assert prompt.offset.numel() < 1_000_000
    c3 = maps(tower.c3_channels)
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=1e-2)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    embeddings = exact_pooling(
        c3,
        BOXES.expand(2, 4, 4),
        layer4=tower.layer4,
        attention_pool=tower.attention_pool,
        positions=prompt(positions),
    )
    embeddings[:, 0].sum().backward()
    assert prompt.offset.grad is not None
    assert (prompt.offset.grad.abs().sum(dim=1) > 0).all()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert not torch.equal(prompt(positions), positions)


@pytest.mark.parametrize("background", [0.0, 0.3])
def test_classifier_leaves_room_for_background(background: float) -> None:
    classifier = RegionClassifier(scale=100.0, background=background)
    classes = F.normalize(torch.randn(5, 16), dim=-1)
    regions = F.normalize(torch.randn(3, 4, 16), dim=-1)
    found = classifier(regions, classes)
    logits = torch.cat([100 * regions @ classes.T, torch.full((3, 4, 1), 100 * background)], dim=-1)
    torch.testing.assert_close(found, logits.softmax(-1)[..., :5])
    assert (found.sum(-1) <= 1 + 1e-6).all()
    torch.testing.assert_close(classifier(classes, classes).argmax(-1), torch.arange(5))
    order = torch.randperm(5)
    torch.testing.assert_close(classifier(regions, classes[order]), found[..., order])
