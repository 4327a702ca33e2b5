"""The localizer whose layers multiply in half precision: near the original, which itself stays."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from cora.localizer import Localizer, LocalizerOutput, inference_localizer
from cora.structures import FeatureMap
from tests.localizer.conftest import CONFIG, random_map, random_queries

PROPOSED = replace(CONFIG, anchors="proposed")


def run(localizer: Localizer, c3: FeatureMap, seed: int) -> LocalizerOutput:
    torch.manual_seed(seed)
    features = c3.features.to(localizer.dtype)
    return localizer(FeatureMap(features, c3.mask), *random_queries())


def test_in_float32_it_is_the_localizer_itself(localizer: Localizer) -> None:
    assert inference_localizer(localizer, torch.float32) is localizer
    halved = inference_localizer(localizer, torch.bfloat16)
    assert inference_localizer(halved, torch.bfloat16) is halved


def test_the_copy_can_be_sent_to_another_process(localizer: Localizer) -> None:
    halved, c3 = inference_localizer(localizer, torch.bfloat16), random_map()
    received = pickle.loads(pickle.dumps(halved))
    assert torch.equal(run(received, c3, 2).boxes_cxcywh, run(halved, c3, 2).boxes_cxcywh)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
def test_boxes_stay_near_and_in_their_own_type(localizer: Localizer, dtype: torch.dtype, padded: bool) -> None:
    halved, c3 = inference_localizer(localizer, dtype), random_map(padded=padded)
    assert halved.dtype == dtype
    mine, its = run(localizer, c3, 1), run(halved, c3, 1)
    for name in ("boxes_cxcywh", "objectness", "hidden"):
        assert getattr(its, name).dtype == torch.float32
    assert (its.boxes_cxcywh - mine.boxes_cxcywh).abs().max() < 0.01
    assert not torch.equal(its.boxes_cxcywh, mine.boxes_cxcywh)
    assert (its.hidden - mine.hidden).norm() < 0.03 * mine.hidden.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_proposals_stay_near_and_in_their_own_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    localizer, c3 = Localizer.from_config(PROPOSED).eval(), random_map()
    assert localizer.proposals is not None
    nn.init.normal_(localizer.proposals.reach_head.weight, std=0.1)  # fresh ones are zero: all reach equally far
    halved = inference_localizer(localizer, dtype)
    with torch.no_grad():
        mine = localizer.propose(localizer.encode(c3))
        its = halved.propose(halved.encode(FeatureMap(c3.features.to(dtype), c3.mask)))
    assert its.boxes_cxcywh.dtype == its.objectness.dtype == torch.float32
    assert 0 < (its.boxes_cxcywh - mine.boxes_cxcywh).abs().max() < 0.01
    assert 0 < (its.objectness - mine.objectness).abs().max() < 0.05


def test_what_places_a_box_stays_in_float32(localizer: Localizer) -> None:
    halved = inference_localizer(localizer, torch.bfloat16)
    kept = {name for name, value in halved.named_parameters() if value.dtype == torch.float32}
    for part in ("decoder.box_heads", "decoder.query_position", "objectness_head", "learned_anchors"):
        assert any(name.startswith(part) for name in kept)
        assert all(name in kept for name, _ in halved.named_parameters() if name.startswith(part))
    layers = [module for module in halved.encoder.layers.modules() if isinstance(module, nn.Linear)]
    assert layers
    assert all(module.weight.dtype == torch.bfloat16 for module in layers)


def test_the_localizer_itself_stays(localizer: Localizer) -> None:
    before = {name: value.clone() for name, value in localizer.state_dict().items()}
    localizer.train()
    halved = inference_localizer(localizer, torch.bfloat16)
    assert not halved.training
    assert not any(value.requires_grad for value in halved.parameters())
    assert all(value.requires_grad for value in localizer.parameters())
    assert localizer.training
    assert all(torch.equal(value, before[name]) for name, value in localizer.state_dict().items())
