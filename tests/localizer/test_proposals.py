"""Anchors proposed from the encoded map."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.errors import ModelError
from cora.localizer import AnchorProposals, Localizer, LocalizerConfig, Proposals
from cora.structures import FeatureMap

CONFIG = LocalizerConfig(c3_channels=8, embed_dim=16, dim=32, ff=32, heads=2, num_queries=6, anchors="proposed")


def proposing() -> Localizer:
    torch.manual_seed(0)
    localizer = Localizer.from_config(CONFIG).eval()
    torch.nn.init.normal_(localizer.proposals.reach_head.weight, std=0.3)
    return localizer


def some_map(height: int = 5, width: int = 7) -> FeatureMap:
    torch.manual_seed(1)
    return FeatureMap(torch.rand(2, 8, height, width), torch.zeros(2, height, width, dtype=torch.bool))


def test_boxes_lie_in_the_image_and_hold_their_cell() -> None:
    localizer = proposing()
    proposals = localizer.propose(localizer.encode(some_map()))
    corners = cxcywh_to_xyxy(proposals.boxes_cxcywh)
    assert proposals.boxes_cxcywh.shape == (2, 35, 4)
    assert float(corners.detach().min()) >= -1e-6
    assert float(corners.detach().max()) <= 1 + 1e-6
    inside = (corners[..., :2] <= proposals.centres) & (proposals.centres <= corners[..., 2:])
    assert bool(inside.all())


def test_padding_changes_nothing_and_is_never_proposed() -> None:
    localizer, c3 = proposing(), some_map()
    plain = localizer.propose(localizer.encode(c3))
    padded = FeatureMap(torch.zeros(2, 8, 6, 9), torch.ones(2, 6, 9, dtype=torch.bool))
    padded.features[..., :5, :7] = c3.features
    padded.mask[..., :5, :7] = False
    wide = localizer.propose(localizer.encode(padded))
    assert int(wide.inside.sum()) == 2 * 35
    torch.testing.assert_close(wide.centres[wide.inside], plain.centres[plain.inside])
    centres = wide.best(35)[..., :2]
    assert bool((centres <= 1).all())


def test_a_larger_picture_of_the_same_things_is_proposed_the_same_cells() -> None:
    """The reach is counted in cells: a map twice as wide of the same content gives boxes half as wide."""
    head = AnchorProposals(dim=32, count=4)
    head.reset_parameters()
    localizer = proposing()
    small, large = (localizer.encode(some_map(4, width)) for width in (40, 80))
    middle = [
        head(memory).boxes_cxcywh[0].view(4, -1, 4)[0, width // 2, 2] for memory, width in ((small, 40), (large, 80))
    ]
    torch.testing.assert_close(middle[0], 2 * middle[1])


def test_the_best_come_first_and_apart() -> None:
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]]])
    proposals = Proposals(
        boxes, torch.tensor([[1.0, 2.0, 0.0]]), torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    )
    torch.testing.assert_close(proposals.best(2)[0], boxes[0, [1, 2]])
    # More are asked for than are apart: the suppressed one follows, then all again.
    torch.testing.assert_close(proposals.best(4)[0], boxes[0, [1, 2, 0, 1]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 20))
def test_any_number_can_be_asked_for(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, 9, 4, generator=generator) * 0.5 + 0.2
    inside = torch.rand(2, 9, generator=generator) < 0.7
    inside[:, 0] = True
    best = Proposals(boxes, torch.randn(2, 9, generator=generator), boxes[..., :2], inside).best(count, iou=0.7)
    assert best.shape == (2, count, 4)
    for image in range(2):
        allowed = boxes[image, inside[image]]
        assert bool((best[image][:, None] == allowed[None]).all(-1).any(1).all())
    assert bool((pairwise_iou(cxcywh_to_xyxy(best[0, :1]), cxcywh_to_xyxy(best[0, :1])) > 0.99).all())


def test_anchors_are_the_best_proposals_without_gradient() -> None:
    localizer = proposing()
    memory = localizer.encode(some_map())
    anchors = localizer.anchors(memory)
    assert anchors.shape == (2, 6, 4)
    assert not anchors.requires_grad
    torch.testing.assert_close(anchors, localizer.propose(memory).best(6).detach())


def test_learned_and_proposed_are_not_confused() -> None:
    learned = Localizer.from_config(replace(CONFIG, anchors="learned"))
    with pytest.raises(ModelError, match="learned anchors and proposes none"):
        learned.propose(learned.encode(some_map()))
    with pytest.raises(ModelError, match='expected "learned" or "proposed"'):
        replace(CONFIG, anchors="guessed")
