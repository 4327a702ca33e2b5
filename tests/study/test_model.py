"""Image encoder and head: shapes, boxes, independence of classes, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.boxes import cxcywh_to_xyxy
from cora.study.build import build_model
from cora.study.cam import FrozenMaps
from cora.study.config import ModelPart
from cora.study.model import StudyModel, cell_centres
from tests.tolerances import assert_near

PART = ModelPart(cam_resolution=(5, 7), image_channels=16, hidden=8)


def make(prior_wh: tuple[float, float] = (0.3, 0.2)) -> StudyModel:
    return build_model(PART, feature_width=12, seed=0, prior_wh=prior_wh)


def inputs(count: int = 2, classes: int = 3) -> tuple[torch.Tensor, FrozenMaps]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, 40, 56, generator=generator)
    cams = torch.rand(count, classes, 2, 3, generator=generator)
    return pixels, FrozenMaps(cams=cams, features=torch.randn(count, 12, 2, 3, generator=generator))


def test_a_box_in_every_cell_of_every_class() -> None:
    boxes = make()(*inputs())
    assert boxes.shape == (2, 3, 5, 7, 4)
    assert bool((boxes[..., 2:] > 0).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 1000))
def test_boxes_hold_their_cell_whatever_the_head_says(seed: int, scale: float) -> None:
    logits = scale * torch.randn(3, 5, 7, 4, generator=torch.Generator().manual_seed(seed))
    corners = cxcywh_to_xyxy(make().head.boxes(logits))
    centres = cell_centres(5, 7)
    assert bool(corners.isfinite().all())
    assert bool((corners[..., :2] < centres).all())
    assert bool((corners[..., 2:] > centres).all())


def test_sides_are_left_top_right_bottom() -> None:
    head = make(prior_wh=(0.2, 0.4)).head
    plain = cxcywh_to_xyxy(head.prior_boxes((5, 7)))
    for side, sign in enumerate((-1, -1, 1, 1)):
        logits = torch.zeros(5, 7, 4)
        logits[..., side] = 1.0
        moved = cxcywh_to_xyxy(head.boxes(logits)) - plain
        others = [other for other in range(4) if other != side]
        assert bool((sign * moved[..., side] > 0).all())
        assert_near(moved[..., others], torch.zeros(5, 7, 3))


def test_training_begins_near_boxes_of_the_prior_size() -> None:
    model = make(prior_wh=(0.25, 0.5))
    prior = model.head.prior_boxes((5, 7))
    torch.testing.assert_close(prior[..., 2:], torch.tensor([0.25, 0.5]).expand(5, 7, 2))
    torch.testing.assert_close(prior[..., :2], cell_centres(5, 7))
    assert float((model(*inputs()) - prior).detach().abs().max()) < 0.2


def test_centres_lie_row_by_row() -> None:
    centres = cell_centres(2, 4)
    assert centres[0, 0].tolist() == [0.125, 0.25]
    assert centres[1, 3].tolist() == [0.875, 0.75]


def test_a_class_does_not_see_the_others() -> None:
    model, (pixels, maps) = make(), inputs()
    whole = model(pixels, maps)
    order = torch.tensor([2, 0, 1])
    turned = model(pixels, FrozenMaps(cams=maps.cams[:, order], features=maps.features))
    torch.testing.assert_close(turned, whole[:, order])
    alone = model(pixels[1:], FrozenMaps(cams=maps.cams[1:, :1], features=maps.features[1:]))
    assert_near(alone, whole[1:, :1])


def test_chosen_classes_are_those_of_the_whole() -> None:
    model, (pixels, maps) = make(), inputs()
    rows, classes = torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0])
    found = model.of_classes(pixels, maps, rows, classes)
    assert_near(found, model(pixels, maps)[rows, classes])


def test_the_map_of_a_class_counts() -> None:
    model, (pixels, maps) = make(), inputs()
    blank = FrozenMaps(cams=torch.zeros_like(maps.cams), features=maps.features)
    assert not torch.allclose(model(pixels, maps), model(pixels, blank))


def test_every_parameter_gets_a_gradient() -> None:
    model = make()
    model(*inputs()).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    assert without == []


def test_the_seed_alone_decides_the_start() -> None:
    state = torch.get_rng_state()
    first = make().state_dict()
    torch.manual_seed(99)
    again = make().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = build_model(PART, feature_width=12, seed=1).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    torch.set_rng_state(state)


@pytest.mark.parametrize("size", [(40, 56), (64, 32)])
def test_the_resolution_is_the_configured_one(size: tuple[int, int]) -> None:
    assert make().image_encoder(torch.randn(1, 3, *size)).shape == (1, 16, 5, 7)
