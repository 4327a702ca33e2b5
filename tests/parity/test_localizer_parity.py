"""The localizer and its training step against the numbers of the published code, in float32, dropout 0."""

import pytest
import torch
from torch import Tensor

from cora.detector.published_localizer import published_localizer_state
from cora.localizer import Localizer, LocalizerConfig, LocalizerOutput
from cora.localizer.memory import Memory
from cora.structures import FeatureMap
from cora.training.criterion import Criterion
from tests.parity.toy import Toy, assert_close, published_order, reorder

LOSSES = {"objectness": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


@pytest.fixture(scope="module")
def localizer(toy: Toy) -> Localizer:
    config = LocalizerConfig(
        c3_channels=128, embed_dim=64, ff=128, dec_layers=3, num_queries=40, class_hidden=32, dropout=0.0
    )
    localizer = Localizer.from_config(config)
    localizer.load_state_dict(published_localizer_state(toy.state_dict))
    return localizer.train()


@pytest.fixture(scope="module")
def memory(toy: Toy, localizer: Localizer) -> Memory:
    return localizer.encode(FeatureMap(toy.expected["features.layer3"], toy.expected["mask.layer3"]))


@pytest.fixture(scope="module")
def output(toy: Toy, localizer: Localizer, memory: Memory) -> LocalizerOutput:
    anchors = reorder(localizer.learned_anchors(2), published_order(toy))
    content = localizer.query_content(toy.expected["class_embeddings"], toy.expected["pre_matched_class"])
    return localizer.decode(memory, anchors, content)


@pytest.fixture(scope="module")
def allowed(toy: Toy) -> list[Tensor]:
    return [
        classes[:, None] == targets.classes[None, :]
        for classes, targets in zip(toy.expected["pre_matched_class"], toy.targets, strict=True)
    ]


def test_positions_and_memory(toy: Toy, memory: Memory) -> None:
    inside = ~toy.expected["mask.layer3"].flatten(1)
    assert_close(memory.positions[inside], toy.expected["pos_embed"].flatten(2).transpose(1, 2)[inside])
    assert_close(memory.tokens[inside], toy.expected["memory"].transpose(0, 1)[inside])


def test_class_queries(toy: Toy, localizer: Localizer) -> None:
    assert_close(localizer.class_queries(toy.expected["class_embeddings"]), toy.expected["class_queries"])


def test_decoder(toy: Toy, output: LocalizerOutput) -> None:
    assert_close(output.hidden, toy.expected["hs"])
    assert_close(output.references, toy.expected["reference"])
    assert_close(output.boxes_cxcywh[:-1], toy.expected["aux_boxes"])
    assert_close(output.objectness[:-1], toy.expected["aux_objectness"][..., 0])
    assert_close(output.boxes_cxcywh[-1], toy.expected["pred_boxes"])


def test_matches(toy: Toy, output: LocalizerOutput, allowed: list[Tensor]) -> None:
    last = Criterion().match(output, toy.targets, allowed)[-1]
    for image in range(2):
        here = last.image == image
        assert torch.equal(last.query[here], toy.expected[f"matched.{image}.query"])
        assert torch.equal(last.target[here], toy.expected[f"matched.{image}.target"])


def test_losses_and_gradients(toy: Toy, localizer: Localizer, output: LocalizerOutput, allowed: list[Tensor]) -> None:
    losses = Criterion()(output, toy.targets, allowed)
    assert_close(losses["total"], toy.expected["loss.total"])
    assert_close(losses["matched_share"], toy.expected["loss.matched_gt"])
    for own, published in LOSSES.items():
        for suffix in ("", "_0", "_1"):
            assert_close(losses[own + suffix], toy.expected[f"loss.{published}{suffix}"])
    losses["total"].backward()
    prefix = "grad."
    published = {name.removeprefix(prefix): value for name, value in toy.expected.items() if name.startswith(prefix)}
    expected = published_localizer_state(published)
    assert len(expected) == len(published) == 6
    parameters = dict(localizer.named_parameters())
    for name, value in expected.items():
        gradient = parameters[name].grad
        assert gradient is not None
        assert_close(gradient, value)
