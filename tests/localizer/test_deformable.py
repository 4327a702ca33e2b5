"""Deformable cross-attention: what it reads, where it starts, and what its values cannot depend on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cora.errors import ModelError
from cora.localizer import Localizer, LocalizerConfig
from cora.localizer.deformable import POINTS, DeformableAttention
from cora.localizer.memory import MapLevel, Memory
from cora.structures import FeatureMap
from tests.localizer.conftest import CONFIG
from tests.tolerances import assert_near

LEVELS = (MapLevel(8, 12, 2.0), MapLevel(4, 6, 1.0))
DIM, HEADS = 8, 2


def memory_of(tokens: Tensor, extents_hw: tuple[float, float] = (4, 6)) -> Memory:
    return Memory(
        tokens=tokens,
        positions=torch.zeros_like(tokens),
        visible=None,
        size_hw=(4, 6),
        extents_hw=torch.tensor([extents_hw]),
        levels=LEVELS,
    )


def reading(*, offsets: Tensor) -> DeformableAttention:
    """A block whose value, output and norm change nothing; its points lie at offsets [heads, levels, P, 2]."""
    block = DeformableAttention(dim=DIM, heads=HEADS, dropout=0.0, levels=len(LEVELS))
    block.reset_parameters()
    with torch.no_grad():
        block.offsets.bias.copy_(offsets.flatten())
        for linear in (block.value, block.output):
            linear.weight.copy_(torch.eye(DIM))
            linear.bias.zero_()
        block.weights.bias.zero_()
    block.norm = torch.nn.Identity()  # type: ignore[assignment]
    return block.eval()


def ramp(level: MapLevel) -> Tensor:
    """Tokens [1, h * w, DIM] whose channels are x and y of the cells' centres, 0..1, in turn."""
    y, x = torch.meshgrid(
        (torch.arange(level.height) + 0.5) / level.height,
        (torch.arange(level.width) + 0.5) / level.width,
        indexing="ij",
    )
    return torch.stack([x, y] * (DIM // 2), dim=-1).flatten(0, 1)[None]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_point_reads_the_place_that_its_offset_names(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    offsets = 2 * torch.rand(HEADS, len(LEVELS), POINTS, 2, generator=generator) - 1
    # Half a cell of the coarser level from the border, nothing beyond the map is mixed in.
    centre = 0.35 + 0.3 * torch.rand(1, 5, 2, generator=generator)
    size = 0.4 * torch.rand(1, 5, 2, generator=generator)
    memory = memory_of(torch.cat([ramp(level) for level in LEVELS], dim=1))
    query = torch.zeros(1, 5, DIM)
    found = reading(offsets=offsets)(query, query, torch.cat([centre, size], dim=-1), memory)
    points = centre[:, :, None, None, None] + offsets / 2 * size[:, :, None, None, None]
    wanted = points.mean(dim=(3, 4))  # equal weights, [1, N, heads, 2]
    assert_near(found.unflatten(-1, (HEADS, -1))[..., :2], wanted)


def test_heads_start_in_directions_of_their_own_within_the_anchor() -> None:
    block = DeformableAttention(dim=32, heads=8, dropout=0.0, levels=3)
    block.reset_parameters()
    start = block.offsets.bias.detach().view(8, 3, POINTS, 2)
    assert start.abs().amax() <= 1
    assert torch.equal(start[:, 0], start[:, 2])
    directions = torch.nn.functional.normalize(start[:, 0, -1], dim=-1)
    nearest = (directions @ directions.T - 2 * torch.eye(8)).amax(dim=1)
    assert bool((nearest < 0.8).all())
    assert bool((start[:, 0].norm(dim=-1).diff(dim=-1) > 0).all())


@pytest.mark.parametrize("attention", ["map", "deformable"])
def test_every_weight_of_the_decoder_learns(attention: str) -> None:
    torch.manual_seed(0)
    localizer = Localizer.from_config(replace(CONFIG, cross_attention=attention))
    with torch.no_grad():
        for value in localizer.parameters():
            value.add_(0.1 * torch.randn_like(value))
    content = localizer.query_content(torch.randn(3, CONFIG.embed_dim), torch.tensor([[0, 1, 2]]))
    memory = localizer.encode(FeatureMap(torch.randn(1, 6, 5, 4), torch.zeros(1, 5, 4, dtype=torch.bool)))
    output = localizer.decode(memory, torch.rand(1, 3, 4) * 0.5 + 0.2, content)
    # The sum over a query's normalised content is a constant, so it is weighted.
    weights = torch.randn(CONFIG.dim)
    (output.boxes_cxcywh.sum() + output.objectness.sum() + (output.hidden * weights).sum()).backward()
    names = [name for name, value in localizer.decoder.named_parameters() if value.grad is None or not value.grad.any()]
    # A key's bias moves all scores alike.
    assert [name for name in names if "key.bias" not in name] == []


def test_a_pyramid_is_read_at_all_its_levels() -> None:
    sizes = {"levels": ((8, 4), (16, 4), (32, 4)), "anchors": "proposed", "dim": 16, "heads": 2, "ff": 16}
    for attention, counts in (("map", [32, 8, 2]), ("deformable", [128, 32, 8, 2])):
        config = LocalizerConfig(embed_dim=10, dec_layers=1, num_queries=5, cross_attention=attention, **sizes)  # type: ignore[arg-type]
        localizer = Localizer.from_config(config).eval()
        packed = FeatureMap(torch.randn(1, 4 * (16 + 4 + 1), 2, 4), torch.zeros(1, 2, 4, dtype=torch.bool))
        memory = localizer.encode(packed)
        assert [level.height * level.width for level in memory.levels] == counts
        assert memory.tokens.shape[1] == sum(counts)
        output = localizer.decode(memory, localizer.anchors(memory), torch.randn(1, 5, 16))
        assert output.boxes_cxcywh.shape == (1, 1, 5, 4)


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ModelError, match='cross_attention: expected "map" or "deformable", got \'none\''):
        replace(CONFIG, cross_attention="none")
