"""What must hold of the localizer whatever its weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.errors import ModelError
from cora.localizer import Localizer, LocalizerConfig, LocalizerOutput
from cora.structures import FeatureMap
from tests.localizer.conftest import CONFIG, random_localizer, random_map, random_queries

FIELDS = ("boxes_cxcywh", "objectness", "hidden", "references")


def assert_same(first: LocalizerOutput, second: LocalizerOutput) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=2e-5, rtol=1e-4)


def test_shapes_and_ranges(localizer: Localizer) -> None:
    content = localizer.query_content(torch.randn(3, CONFIG.embed_dim), torch.tensor([[0, 1, 2, 0, 1, 2, 0]] * 2))
    assert localizer.class_queries(torch.randn(3, CONFIG.embed_dim)).shape == (3, CONFIG.dim)
    output = localizer(random_map(), localizer.learned_anchors(2), content)
    assert output.boxes_cxcywh.shape == output.references.shape == (3, 2, 7, 4)
    assert output.objectness.shape == (3, 2, 7)
    assert output.hidden.shape == (3, 2, 7, CONFIG.dim)
    assert output.boxes_cxcywh.min() >= 0
    assert output.boxes_cxcywh.max() <= 1


def test_a_fresh_localizer_leaves_its_anchors_and_believes_in_nothing() -> None:
    fresh = Localizer.from_config(CONFIG).eval()
    output = fresh(random_map(), fresh.learned_anchors(2), torch.zeros(2, 7, CONFIG.dim))
    torch.testing.assert_close(output.boxes_cxcywh, fresh.learned_anchors(2).expand(3, -1, -1, -1), atol=1e-2, rtol=0)
    assert output.objectness.sigmoid().mean() < 0.1


@pytest.mark.parametrize("attention", ["map", "deformable"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), bottom=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_changes_nothing(attention: str, seed: int, bottom: int, right: int) -> None:
    localizer = random_localizer(replace(CONFIG, cross_attention=attention), seed)
    c3, (anchors, content) = random_map(), random_queries()
    more = FeatureMap(
        F.pad(c3.features, (0, right, 0, bottom), value=3.0),
        F.pad(c3.mask, (0, right, 0, bottom), value=True),
    )
    assert_same(localizer(c3, anchors, content), localizer(more, anchors, content))


@pytest.mark.parametrize("attention", ["map", "deformable"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_images_of_a_batch_do_not_see_each_other(attention: str, seed: int) -> None:
    localizer = random_localizer(replace(CONFIG, cross_attention=attention), seed)
    c3, (anchors, content) = random_map(3), random_queries(3)
    together = localizer(c3, anchors, content)
    for index in range(3):
        one = slice(index, index + 1)
        alone = localizer(FeatureMap(c3.features[one], c3.mask[one]), anchors[one], content[one])
        assert_same(alone, LocalizerOutput(**{name: getattr(together, name)[:, one] for name in FIELDS}))


@pytest.mark.parametrize("attention", ["map", "deformable"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_queries_have_no_order(attention: str, seed: int) -> None:
    localizer = random_localizer(replace(CONFIG, cross_attention=attention), seed)
    c3, (anchors, content) = random_map(), random_queries()
    order = torch.randperm(7)
    there = localizer(c3, anchors, content)
    shuffled = localizer(c3, anchors[:, order], content[:, order])
    assert_same(shuffled, LocalizerOutput(**{name: getattr(there, name)[:, :, order] for name in FIELDS}))


@pytest.mark.parametrize("shape", ["plain", "per_image_and_head"])
def test_blocked_queries_are_not_seen(localizer: Localizer, shape: str) -> None:
    c3, (anchors, content) = random_map(), random_queries()
    extra_anchors, extra_content = random_queries(count=5)
    group = torch.tensor([0] * 7 + [1] * 5)
    blocked = group[:, None] != group[None, :]
    if shape == "per_image_and_head":
        blocked = blocked.expand(2, CONFIG.heads, 12, 12)
    memory = localizer.encode(c3)
    both = localizer.decode(
        memory, torch.cat([anchors, extra_anchors], 1), torch.cat([content, extra_content], 1), blocked
    )
    alone = localizer.decode(memory, anchors, content)
    assert_same(alone, LocalizerOutput(**{name: getattr(both, name)[:, :, :7] for name in FIELDS}))


def test_refinement_is_detached_between_layers_but_read_out_is_not(localizer: Localizer) -> None:
    c3, (anchors, content) = random_map(), random_queries()
    localizer(c3, anchors, content).boxes_cxcywh[2].sum().backward()
    gradients = [[bool(p.grad.any()) for p in head.parameters()] for head in localizer.decoder.box_heads]
    assert gradients == [[False] * 6, [True] * 6, [True] * 6]


@pytest.mark.parametrize("layers", [1, 3])
def test_every_parameter_gets_a_gradient(layers: int) -> None:
    localizer = random_localizer(replace(CONFIG, dec_layers=layers)).train()
    embeddings, classes = torch.randn(3, CONFIG.embed_dim), torch.randint(0, 3, (2, 7))
    output = localizer(random_map(), localizer.learned_anchors(2), localizer.query_content(embeddings, classes))
    (output.boxes_cxcywh.square().sum() + output.objectness.square().sum()).backward()
    lacking = [name for name, value in localizer.named_parameters() if value.grad is None or not value.grad.any()]
    assert lacking == []


def test_dropout_acts_in_training_only(localizer: Localizer) -> None:
    c3, (anchors, content) = random_map(), random_queries()
    assert torch.equal(localizer(c3, anchors, content).hidden, localizer(c3, anchors, content).hidden)
    localizer.train()
    assert not torch.equal(localizer(c3, anchors, content).hidden, localizer(c3, anchors, content).hidden)


def test_gradients_are_finite_at_extreme_anchors(localizer: Localizer) -> None:
    anchors = torch.tensor([[[0.0, 1.0, 1e-3, 1.0], [1.0, 0.0, 1.0, 1e-3]]] * 2).requires_grad_()
    output = localizer(random_map(), anchors, torch.randn(2, 2, CONFIG.dim))
    output.boxes_cxcywh.sum().backward()
    assert anchors.grad is not None
    assert torch.isfinite(anchors.grad).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 18}, "dim: expected a multiple of 4 and of heads = 2, got 18"),
        ({"heads": 3}, "dim: expected a multiple of 4 and of heads = 3, got 16"),
        ({"num_queries": 0}, "num_queries: expected at least 1, got 0"),
        ({"enc_layers": 0}, "enc_layers: expected at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: expected 0 or more and below 1"),
        ({"dropout": None}, "dropout: expected a number of 0 or more and below 1, got None"),
        ({"dec_layers": 1.5}, "dec_layers: expected a whole number, got 1.5"),
        ({"heads": "4"}, "heads: expected a whole number, got '4'"),
        ({"ff": True}, "ff: expected a whole number, got True"),
        ({"head_dim": 2.0}, "head_dim: expected a whole number, got 2.0"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(CONFIG, **change)


def test_published_sizes_are_the_defaults() -> None:
    config = LocalizerConfig()
    assert (config.dim, config.heads, config.ff, config.enc_layers, config.dec_layers) == (256, 8, 1024, 3, 6)
    assert (config.num_queries, config.class_hidden, config.dropout) == (1000, 128, 0.1)
