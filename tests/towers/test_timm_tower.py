"""A timm backbone as image tower: frozen, folded for inference, with a detector beside it or without."""

import pytest
import timm
import torch
from torch.nn import functional as F

from cora.boxes import batched_iou
from cora.regions.cell_pooling import cell_map, cell_pooling
from cora.roi_align import roi_align
from cora.structures import ImageBatch
from cora.towers import TimmTower, TowerConfig
from cora.towers.timm_tower import PIXEL_MEAN, PIXEL_STD, TOP_BOXES, PackedMap, box_class_scores, build_backbone
from tests.tolerances import assert_near
from tests.toy_nano import toy_tower


@pytest.fixture(
    scope="module",
    params=[0, 1, 2, 3],
    ids=["alone", "with NanoDet", "NanoDet looks twice", "with box stages and fine head"],
)
def tower(request: pytest.FixtureRequest) -> TimmTower:
    if request.param == 3:
        return toy_tower(detector=False, box_stages=(3, 4), fine_bins=2)
    return toy_tower(detector=request.param > 0, looks=max(request.param, 1))


def batch(count: int = 2, height: int = 96, width: int = 128, *, padded: bool = False, seed: int = 0) -> ImageBatch:
    random = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    if padded:
        mask[-1, :, -32:] = True
    pixels = torch.randn(count, 3, height, width, generator=random).masked_fill(mask[:, None], 0)
    sizes = tuple((height, width - 32 * (padded and place == count - 1)) for place in range(count))
    return ImageBatch(pixels, mask, sizes, sizes)


@torch.no_grad()
def test_the_backbone_is_timms() -> None:
    torch.manual_seed(0)
    ours = build_backbone("tf_efficientnet_lite0").eval()
    timms = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    timms.load_state_dict(ours.state_dict())
    pixels = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(ours.forward_features(pixels), timms.forward_features(pixels))  # type: ignore[operator]


@torch.no_grad()
def test_folding_changes_rounding_only(tower: TimmTower) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    folded = tower.for_inference(torch.float32)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    mine, its = tower.features(batch())[0].features, folded.features(batch())[0].features
    assert (mine - its).norm() < 1e-5 * mine.norm()
    cells = torch.randn(3, tower.deep_channels, 3, 3)
    assert_near(folded.head(cells), tower.head(cells))
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@torch.no_grad()
def test_in_half_precision_it_is_near(tower: TimmTower) -> None:
    halved = tower.for_inference(torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    mine, its = tower.features(batch())[0], halved.features(batch())[0]
    assert (mine.features - its.features.float()).norm() < 0.1 * mine.features.norm()
    boxes, other = tower.boxes(mine), halved.boxes(its)
    if boxes is not None and other is not None:
        assert other.reach.dtype == torch.float32
        torch.testing.assert_close(other.reach, boxes.reach)  # the detector keeps its precision
    cells = torch.randn(3, tower.deep_channels, 3, 3)
    near = F.cosine_similarity(halved.embed(halved.head(cells.bfloat16()), None), tower.embed(tower.head(cells), None))
    assert near.min() > 0.99


def test_it_is_frozen(tower: TimmTower) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.train()
    tower.features(batch())
    assert not tower.training
    assert not any(module.training for module in tower.modules())
    assert not any(value.requires_grad for value in tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@torch.no_grad()
def test_images_of_one_size_do_not_see_each_other(tower: TimmTower) -> None:
    three = batch(3, padded=True)
    together = tower.features(three)[0]
    top_boxes = tower.top_boxes(together)
    for place in range(3):
        one = slice(place, place + 1)
        alone = tower.features(ImageBatch(three.pixels[one], three.mask[one], three.sizes[one], three.sizes[one]))[0]
        torch.testing.assert_close(alone.features, together.features[one], rtol=1e-4, atol=1e-4)
        seen = tower.top_boxes(alone)
        if top_boxes is not None and seen is not None:
            # Cells of almost equal objectness may swap places, and one at the end of the list may be another.
            ious = batched_iou(seen.boxes_xyxy, top_boxes.boxes_xyxy[one]).amax(dim=2)
            real = (seen.boxes_xyxy[..., 2:] - seen.boxes_xyxy[..., :2]).amin(dim=2) > 1e-3
            assert (ious[real] > 0.99).float().mean() > 0.95


@torch.no_grad()
def test_c3_and_c4_are_one_packed_map(tower: TimmTower) -> None:
    c3, c4 = tower.features(batch(padded=True))
    assert c3 is c4
    assert c3.features.shape == (2, tower.c3_channels, 3, 4)
    assert c3.extents_hw.tolist() == [[3, 4], [3, 3]]
    assert tower.deep(c3.features).shape == (2, tower.deep_channels, 3, 4)
    assert tower.prompt_shape == (9, tower.deep_channels)
    assert not tower.positions.any()


@torch.no_grad()
def test_box_stages_change_what_the_localizer_reads_and_nothing_else() -> None:
    tower, plain = toy_tower(detector=False, box_stages=(3, 4)), toy_tower(detector=False)
    plain.load_state_dict({name: value for name, value in tower.state_dict().items() if "box_stages" not in name})
    assert tower.box_stages is not None
    mine, its = tower.features(batch())[0].features, plain.features(batch())[0].features
    assert torch.equal(tower.deep(mine), plain.deep(its))
    fine, *coarse = zip(tower.layout.unpack(mine), plain.layout.unpack(its), strict=True)
    assert torch.equal(*fine)  # of stage 2, before the fork
    assert not any(torch.equal(*level) for level in coarse)
    for place in (3, 4):
        tower.box_stages[str(place)].load_state_dict(tower.net.blocks[place].state_dict())
    again = tower.features(batch())[0].features
    for own, shared in zip(tower.layout.unpack(again), plain.layout.unpack(its), strict=True):
        assert torch.equal(own, shared)


@torch.no_grad()
def test_a_fine_head_reads_regions_from_the_map_of_stride_16() -> None:
    tower, plain = toy_tower(detector=False, fine_bins=2), toy_tower(detector=False)
    plain.load_state_dict({name: value for name, value in tower.state_dict().items() if not name.startswith("fine.")})
    c3 = tower.features(batch())[0]
    boxes, prompt = torch.tensor([[[0.4, 0.5, 0.3, 0.6], [0.7, 0.3, 0.2, 0.2]]] * 2), tower.positions
    mine = cell_pooling(cell_map(c3, tower), boxes, tower=tower, prompt=prompt)
    its = cell_pooling(cell_map(c3, plain), boxes, tower=plain, prompt=prompt)
    assert plain.fine_map(c3.features) is None
    fine, head = tower.fine_map(c3.features), tower.fine
    assert fine is not None
    assert head is not None
    assert torch.equal(fine, tower.layout.unpack(c3.features)[1])
    cells = roi_align(fine, boxes, 2 * c3.extents_hw, bins=2).flatten(0, 1)
    assert not torch.allclose(mine, its, atol=1e-3)
    pooled = tower.head(roi_align(tower.deep(c3.features), boxes, c3.extents_hw, bins=3).flatten(0, 1))
    assert_near(mine, F.normalize(tower.text_space(pooled) + head(cells), dim=-1))


@pytest.mark.parametrize("fine_bins", [-1, 2])
def test_a_fine_head_is_not_beside_a_detector(fine_bins: int) -> None:
    with pytest.raises(ValueError, match="fine_bins: expected 0, or 1 and more"):
        TowerConfig(backbone="tf_efficientnet_lite0", fine_bins=fine_bins, detector="nanodet")


@pytest.mark.parametrize(("stages", "words"), [((3, 5), "one after the other"), ((0, 1), "one after"), ((6, 7), "one")])
def test_box_stages_follow_each_other(stages: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TowerConfig(backbone="tf_efficientnet_lite0", box_stages=stages)
    with pytest.raises(ValueError, match="without a detector beside it"):
        TowerConfig(backbone="tf_efficientnet_lite0", box_stages=(3, 4), detector="nanodet")


@torch.no_grad()
def test_boxes_come_from_the_map_alone_too() -> None:
    tower = toy_tower()
    remembered = tower.features(batch(padded=True))[0]
    assert isinstance(remembered, PackedMap)
    plain = PackedMap(remembered.features, remembered.mask)  # as a feature cache gives it back
    boxes, again = tower.boxes(remembered), tower.boxes(plain)
    assert boxes is not None
    assert again is not None
    assert boxes.objectness.shape == (2, 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2)
    assert bool((boxes.reach >= 0).all())
    for name in ("reach", "centres", "objectness"):
        torch.testing.assert_close(getattr(again, name), getattr(boxes, name), rtol=1e-4, atol=1e-4)
    assert boxes.centres.amax(1)[0].tolist() == [32 * 3.75 / 32, 32 * 2.75 / 32]  # upper left corners of the finest


@torch.no_grad()
def test_the_second_look_is_at_half_the_size() -> None:
    tower, images = toy_tower(looks=2), batch()
    assert tower.detector is not None
    c3 = tower.features(images)[0]
    pixels = images.pixels * (255 * PIXEL_STD) + 255 * PIXEL_MEAN
    small = tower.detector(F.interpolate(pixels, scale_factor=0.5, mode="area"))
    boxes, plain = tower.boxes(c3), tower.boxes(PackedMap(c3.features, c3.mask))
    assert boxes is not None
    assert plain is not None
    cells = 3 * 4 + 2 * 2 + 1  # of its three coarser levels
    assert boxes.objectness.shape == (2, 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + cells)
    torch.testing.assert_close(boxes.reach[:, -cells:] * 32, small.reach[:, -cells:] * 2, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        boxes.objectness[:, -cells:], small.class_logits[:, -cells:].amax(-1), rtol=1e-4, atol=1e-4
    )
    assert boxes.centres[0, -cells:].amax(0).tolist() == [3, 2]
    torch.testing.assert_close(plain.reach, boxes.reach, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_top_boxes_are_those_of_the_image_and_padding_has_no_scores() -> None:
    tower = toy_tower()
    c3 = tower.features(batch(padded=True))[0]
    top_boxes = tower.top_boxes(c3)
    assert top_boxes is not None
    assert top_boxes.boxes_xyxy.shape == (2, TOP_BOXES, 4)  # more than there are cells
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(2, 1, 4)
    seen = box_class_scores(whole, top_boxes)
    assert seen.shape == (2, 1, 80)
    assert bool((seen >= 0).all())
    assert bool((seen <= 1).all())
    dense = tower.dense(c3)
    assert dense is not None
    inside = torch.cat([~mask.flatten(1) for mask in tower.layout.unpack_mask(c3.mask)], dim=1)
    best = dense.class_logits.sigmoid().amax(-1).masked_fill(~inside, 0).amax(1)
    torch.testing.assert_close(top_boxes.class_scores.amax((1, 2)), best)


def test_without_a_detector_it_knows_no_boxes() -> None:
    tower = toy_tower(detector=False)
    c3 = tower.features(batch())[0]
    assert tower.boxes(c3) is None
    assert tower.top_boxes(c3) is None
