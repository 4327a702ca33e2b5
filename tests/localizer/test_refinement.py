"""The second look at the decoder's boxes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import aligned_iou, cxcywh_to_xyxy
from cora.localizer import Localizer, LocalizerConfig, LocalizerOutput
from cora.localizer.refinement import BINS, CHANNELS, LONGEST, SCALES, BoxRefinement, corrected, product_logit, scaled
from cora.structures import FeatureMap

CONFIG = LocalizerConfig(c3_channels=8, embed_dim=10, dim=16, heads=2, ff=24, num_queries=7, refinement=12)


def random_map(*, padded: bool = True) -> FeatureMap:
    mask = torch.zeros(2, 6, 9, dtype=torch.bool)
    if padded:
        mask[1, 4:] = mask[1, :, 6:] = True
    return FeatureMap(torch.randn(2, 8, 6, 9), mask)


def decoded(localizer: Localizer, c3: FeatureMap) -> LocalizerOutput:
    content = localizer.query_content(torch.randn(3, 10), torch.tensor([[0, 1, 2, 0, 1, 2, 0]] * 2))
    memory = localizer.encode(c3)
    return localizer.decode(memory, localizer.anchors(memory), content)


def test_a_fresh_refinement_leaves_boxes_alone() -> None:
    torch.manual_seed(0)
    localizer = Localizer.from_config(CONFIG).eval()
    with torch.no_grad():
        output = decoded(localizer, random_map())
    assert output.boxes_cxcywh.shape == (CONFIG.dec_layers + 1, 2, 7, 4)
    torch.testing.assert_close(output.boxes_cxcywh[-1], output.boxes_cxcywh[-2])
    torch.testing.assert_close(output.objectness[-1].sigmoid(), output.objectness[-2].sigmoid(), rtol=0.02, atol=0)
    torch.testing.assert_close(output.references[-1], output.boxes_cxcywh[-2])


def test_pools_the_box_and_its_surroundings_from_the_finest_level() -> None:
    torch.manual_seed(0)
    localizer = Localizer.from_config(CONFIG).eval()
    refinement = localizer.refinement
    assert refinement is not None
    c3 = random_map()
    with torch.no_grad():
        memory = localizer.encode(c3)
        boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.4]], [[0.4, 0.6, 0.9, 0.2]]])
        found = refinement.pool(memory, boxes).view(2, len(SCALES), CHANNELS, BINS, BINS)
        maps = refinement.reduce(memory.tokens).transpose(1, 2).unflatten(-1, (6, 9))
    for number, scale in enumerate(SCALES):
        corners = cxcywh_to_xyxy(scaled(boxes, scale))[:, 0] * torch.tensor([[9, 6, 9, 6], [6, 4, 6, 4]])
        expected = roi_align(maps, list(corners[:, None]), (BINS, BINS), aligned=True)
        own = slice(CHANNELS * number, CHANNELS * (number + 1))
        torch.testing.assert_close(found[:, number], expected[:, own], rtol=0, atol=1e-5)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_objectness_is_multiplied_by_the_fit(first: float, second: float) -> None:
    logits = torch.tensor([first, second], dtype=torch.float64)
    torch.testing.assert_close(product_logit(*logits).sigmoid(), logits.sigmoid().prod())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10))
def test_corrected_boxes_are_in_the_image(seed: int, strength: float) -> None:
    torch.manual_seed(seed)
    boxes, shift, stretch = torch.rand(20, 4), strength * torch.randn(20, 2), strength * torch.randn(20, 2)
    corners = cxcywh_to_xyxy(corrected(boxes, shift, stretch))
    assert (corners >= -1e-3).all()  # a box outside gets the smallest side
    assert (corners <= 1 + 1e-3).all()
    torch.testing.assert_close(scaled(boxes, 1.0), boxes, rtol=0, atol=1.001 - LONGEST)
    assert (scaled(boxes, 1.6)[:, 2:] <= LONGEST).all()


@pytest.mark.slow
def test_learns_where_an_object_is() -> None:
    """One bright rectangle; the boxes to correct are up to a third of its sides off."""
    torch.manual_seed(0)
    refinement = BoxRefinement(dim=8, hidden=64)
    refinement.reset_parameters()
    localizer = Localizer.from_config(replace(CONFIG, c3_channels=1, dim=8, enc_layers=1))
    optimiser = torch.optim.Adam(refinement.parameters(), lr=3e-3)

    def losses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        target = torch.cat([0.35 + 0.3 * torch.rand(16, 2), 0.2 + 0.3 * torch.rand(16, 2)], dim=-1)
        grid = (torch.arange(16) + 0.5) / 16
        left, top, right, bottom = cxcywh_to_xyxy(target).unbind(-1)
        rows = (grid > top[:, None]) & (grid < bottom[:, None])
        columns = (grid > left[:, None]) & (grid < right[:, None])
        bright = (rows[:, :, None] & columns[:, None]).float()
        c3 = FeatureMap(bright[:, None], torch.zeros(16, 16, 16, dtype=torch.bool))
        with torch.no_grad():
            memory = replace(localizer.encode(c3), tokens=bright.flatten(1)[..., None].expand(-1, -1, 8))
        start = torch.cat([target[:, :2] + (torch.rand(16, 2) - 0.5) * target[:, 2:] / 1.5, target[:, 2:]], dim=-1)
        boxes, fit = refinement(memory, start[:, None])
        before = aligned_iou(cxcywh_to_xyxy(start), cxcywh_to_xyxy(target))
        after = aligned_iou(cxcywh_to_xyxy(boxes[:, 0]), cxcywh_to_xyxy(target))
        return before, after, F.binary_cross_entropy_with_logits(fit[:, 0], before)

    for _ in range(300):
        before, after, off = losses()
        optimiser.zero_grad()
        (1 - after.mean() + off).backward()
        optimiser.step()
    with torch.no_grad():
        before, after, _ = losses()
    assert after.mean() > before.mean() + 0.15


def test_the_decoder_gets_no_gradient_from_the_refined_box() -> None:
    torch.manual_seed(0)
    localizer = Localizer.from_config(CONFIG)
    assert localizer.refinement is not None
    torch.nn.init.normal_(localizer.refinement.head.weight)
    decoded(localizer, random_map()).boxes_cxcywh[-1].sum().backward()
    assert localizer.refinement.first.weight.grad.any()  # type: ignore[union-attr]
    assert not any(value.grad is not None and value.grad.any() for value in localizer.decoder.parameters())


@pytest.mark.parametrize("refinement", [0, 12])
def test_none_has_no_weights(refinement: int) -> None:
    localizer = Localizer.from_config(replace(CONFIG, refinement=refinement))
    assert any(name.startswith("refinement.") for name, _ in localizer.named_parameters()) == bool(refinement)
