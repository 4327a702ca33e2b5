"""The localizer on pyramids: starts as what the tower sees, learns corrections of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cora.errors import ModelError
from cora.localizer import Localizer, LocalizerConfig, inference_localizer
from cora.localizer.pyramid import PyramidMemory, PyramidProposals, objectness_at
from cora.predictor import Predictor
from cora.pyramid import PyramidLayout
from cora.structures import DenseBoxes, FeatureMap, Targets
from cora.towers import TimmTower
from cora.training.denoising import DenoisingConfig
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from tests.toy_nano import NAMES, nano_config, picture, toy_nano

LEVELS = ((8, 4), (16, 5), (32, 6), (64, 7))
CONFIG = LocalizerConfig(
    c3_channels=PyramidLayout(LEVELS).packed_channels,
    embed_dim=10,
    dim=16,
    heads=2,
    ff=24,
    enc_layers=1,
    dec_layers=2,
    num_queries=7,
    anchors="proposed",
    class_hidden=8,
    dropout=0.0,
    levels=LEVELS,
)
THREE = replace(CONFIG, levels=LEVELS[:3], c3_channels=PyramidLayout(LEVELS[:3]).packed_channels)


def moved(config: LocalizerConfig = CONFIG, seed: int = 0) -> Localizer:
    """With weights that make a difference."""
    torch.manual_seed(seed)
    localizer = Localizer.from_config(config)
    with torch.no_grad():
        for value in localizer.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return localizer.eval()


def cells(height: int, width: int) -> int:
    return sum(-(-height * 32 // stride) * -(-width * 32 // stride) for stride in (8, 16, 32, 64))


def random_map(
    batch: int = 2, height: int = 3, width: int = 4, *, padded: bool = True, config: LocalizerConfig = CONFIG
) -> FeatureMap:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    if padded:
        mask[1:, -1:] = True
    return FeatureMap(torch.randn(batch, config.c3_channels, height, width), mask)


def centres(height: int, width: int) -> Tensor:
    parts = []
    for stride in (8, 16, 32, 64):
        y, x = torch.meshgrid(
            *(torch.arange(-(-side * 32 // stride), dtype=torch.float32) for side in (height, width)), indexing="ij"
        )
        parts.append(torch.stack([x, y], dim=-1).flatten(0, 1) * stride / 32)
    return torch.cat(parts)


def random_start(batch: int = 2, height: int = 3, width: int = 4) -> DenseBoxes:
    count = cells(height, width)
    return DenseBoxes(
        torch.rand(batch, count, 4) * 2, centres(height, width).expand(batch, -1, -1), torch.randn(batch, count)
    )


@torch.no_grad()
def test_a_fresh_localizer_proposes_what_the_tower_sees() -> None:
    torch.manual_seed(0)
    localizer, c3, start = Localizer.from_config(CONFIG).eval(), random_map(), random_start()
    proposals = localizer.propose(localizer.encode(c3, start))
    torch.testing.assert_close(proposals.objectness, start.objectness)
    extents = c3.extents_hw.flip(-1).unsqueeze(1)
    lower = ((start.centres - start.reach[..., :2]) / extents).clamp(0, 1)
    upper = ((start.centres + start.reach[..., 2:]) / extents).clamp(0, 1)
    torch.testing.assert_close(proposals.boxes_cxcywh[..., :2], (lower + upper) / 2)
    torch.testing.assert_close(proposals.boxes_cxcywh[..., 2:], (upper - lower).clamp(min=1e-3))
    # The decoder, too, starts at its anchors and their objectness.
    memory = localizer.encode(c3, start)
    anchors = localizer.anchors(memory)
    output = localizer.decode(memory, anchors, torch.randn(2, 7, 16))
    torch.testing.assert_close(output.objectness, objectness_at(anchors, proposals).expand(2, -1, -1))
    torch.testing.assert_close(output.boxes_cxcywh, anchors.expand(2, -1, -1, -1), atol=1e-2, rtol=0)


@torch.no_grad()
def test_without_a_start_boxes_are_squares_and_nothing_is_believed() -> None:
    localizer, c3 = Localizer.from_config(THREE).eval(), random_map(padded=False, config=THREE)
    proposals = localizer.propose(localizer.encode(c3))
    assert proposals.boxes_cxcywh.shape == (2, cells(3, 4), 4)
    assert (proposals.objectness.sigmoid() - 0.01).abs().max() < 1e-4
    assert bool((proposals.boxes_cxcywh >= 0).all())
    assert bool((proposals.boxes_cxcywh <= 1).all())


@torch.no_grad()
def test_anchors_find_their_own_objectness() -> None:
    localizer, c3 = moved(), random_map()
    memory = localizer.encode(c3, random_start())
    assert isinstance(memory, PyramidMemory)
    proposals = memory.proposals
    torch.testing.assert_close(objectness_at(proposals.boxes_cxcywh[:, 5:9], proposals), proposals.objectness[:, 5:9])
    best = proposals.objectness.masked_fill(~proposals.inside, -torch.inf).amax(1)
    torch.testing.assert_close(objectness_at(localizer.anchors(memory), proposals)[:, 0], best)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), below=st.integers(0, 2), right=st.integers(0, 2), three=st.booleans())
def test_padding_changes_nothing(seed: int, below: int, right: int, three: bool) -> None:
    localizer = moved(THREE if three else CONFIG, seed)
    c3 = random_map(config=THREE if three else CONFIG)
    more = FeatureMap(
        F.pad(c3.features, (0, right, 0, below), value=3.0), F.pad(c3.mask, (0, right, 0, below), value=True)
    )
    with torch.no_grad():
        mine, its = localizer.encode(c3), localizer.encode(more)
    assert isinstance(mine, PyramidMemory)
    assert isinstance(its, PyramidMemory)
    for image in range(2):
        one, other = (
            (memory.proposals.boxes_cxcywh[image], memory.proposals.objectness[image], memory.proposals.inside[image])
            for memory in (mine, its)
        )
        torch.testing.assert_close(other[0][other[2]], one[0][one[2]], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other[1][other[2]], one[1][one[2]], rtol=1e-3, atol=1e-4)
    content = torch.randn(2, 7, 16)
    with torch.no_grad():
        first = localizer.decode(mine, localizer.anchors(mine), content)
        second = localizer.decode(its, localizer.anchors(mine), content)
    torch.testing.assert_close(second.boxes_cxcywh, first.boxes_cxcywh, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_near(dtype: torch.dtype, padded: bool) -> None:
    localizer, c3, start = moved(), random_map(padded=padded), random_start()
    halved = inference_localizer(localizer, dtype)
    assert halved.dtype == dtype
    mine = localizer.encode(c3, start)
    its = halved.encode(FeatureMap(c3.features.to(dtype), c3.mask), start)
    assert isinstance(mine, PyramidMemory)
    assert isinstance(its, PyramidMemory)
    assert its.proposals.boxes_cxcywh.dtype == its.proposals.objectness.dtype == torch.float32
    assert (its.proposals.boxes_cxcywh - mine.proposals.boxes_cxcywh).abs().max() < 0.05
    anchors, content = localizer.anchors(mine), torch.randn(2, 7, 16)
    first, second = localizer.decode(mine, anchors, content), halved.decode(its, anchors, content)
    assert second.boxes_cxcywh.dtype == torch.float32
    assert (second.boxes_cxcywh - first.boxes_cxcywh).abs().max() < 0.03


@pytest.mark.parametrize("beside", [True, False], ids=["with NanoDet", "alone"])
@pytest.mark.parametrize("recompute", [False, True])
def test_every_trainable_parameter_gets_a_gradient(tmp_path: Path, beside: bool, recompute: bool) -> None:
    detector = toy_nano(tmp_path, nano_config(detector=beside))
    assert isinstance(detector.image_tower, TimmTower)
    if detector.image_tower.detector is not None:
        for head in detector.image_tower.detector.heads:  # short reaches: boxes cut at all sides say nothing of them
            head.bias.data[80:].view(4, 8)[:, 0] = 3.0
    assert isinstance(detector.localizer.proposals, PyramidProposals)
    detector.localizer.proposals.reach_heads[-1].bias.data.fill_(0.0 if beside else -1.5)
    task = LocalizerTask(
        detector=detector,
        vocabulary=Predictor(detector).vocabulary(NAMES, distractors=()),
        config=LocalizerTaskConfig(
            class_dropout=0.0, activation_checkpointing=recompute, denoising=DenoisingConfig(), target_repeats=2
        ),
    ).train()
    batch = detector.preprocessor([picture(120, 160), picture(151, 101, seed=1)])
    with torch.no_grad():
        memory = detector.encode_map(detector.encode(batch)[0])
    assert isinstance(memory, PyramidMemory)
    place = -6 if beside else -5  # a box of the coarsest level, or that level learns nothing
    coarse = memory.proposals.boxes_cxcywh[:, [place]]
    targets = tuple(
        Targets(
            torch.cat([torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0]]), 0.95 * box]),
            torch.tensor([first, 2, first]),
        )
        for first, box in enumerate(coarse)
    )
    task((batch, targets))["loss"].backward()
    trainable = {name: value for name, value in detector.named_parameters() if value.requires_grad}
    assert trainable
    assert all(name.startswith("localizer.") for name in trainable)
    assert [name for name, value in trainable.items() if value.grad is None or not value.grad.any()] == []
    assert all(value.grad is None for value in detector.image_tower.parameters())


def test_learned_anchors_do_not_go_with_levels() -> None:
    with pytest.raises(ModelError, match='expected "proposed" with the levels of a pyramid'):
        replace(CONFIG, anchors="learned")


def test_a_second_look_proposes_boxes_and_is_no_memory(tmp_path: Path) -> None:
    one, two = (toy_nano(tmp_path, nano_config(looks=looks)) for looks in (1, 2))
    images = [picture(96, 128)]
    memories = [model.encode_map(model.encode(model.preprocessor(images))[0]) for model in (one, two)]
    assert all(isinstance(memory, PyramidMemory) for memory in memories)
    assert memories[0].tokens.shape == memories[1].tokens.shape
    first, second = (memory.proposals.objectness.shape[1] for memory in memories)  # type: ignore[attr-defined]
    assert second > first


def test_levels_of_two_looks_are_not_mixed() -> None:
    levels = (*LEVELS, (16, 4), (32, 5))
    config = replace(CONFIG, levels=levels, c3_channels=PyramidLayout(levels).packed_channels)
    Localizer.from_config(replace(config, enc_layers=0))
    with pytest.raises(ValueError, match="levels of two looks cannot be mixed"):
        Localizer.from_config(config)
