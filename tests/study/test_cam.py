"""Feature surgery and maps: what holds for any tokens and texts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cora.structures import ImageBatch
from cora.study.build import FrozenPart
from cora.study.cam import CamTower, empty_prompt, feature_surgery, to_maps, upsample
from cora.study.train import cam_tower_of
from tests.tolerances import assert_near

NAMES = ("red square", "green square", "blue square")
many = settings(max_examples=25, deadline=None)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@many
@given(seed=st.integers(0, 999), classes=st.integers(2, 6), patches=st.integers(1, 9))
def test_what_classes_share_is_gone(seed: int, classes: int, patches: int) -> None:
    tokens, texts = unit(2, 1 + patches, 8, seed=seed), unit(classes, 8, seed=seed + 1)
    found = feature_surgery(tokens, texts)
    assert_near(found.sum(dim=-1), torch.zeros(2, 1 + patches))
    same = feature_surgery(tokens, texts[:1].expand(classes, -1))
    assert_near(same, torch.zeros_like(same))


@many
@given(seed=st.integers(0, 999), classes=st.integers(2, 6))
def test_order_of_classes_and_images_does_not_matter(seed: int, classes: int) -> None:
    tokens, texts = unit(3, 5, 8, seed=seed), unit(classes, 8, seed=seed + 1)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    whole = feature_surgery(tokens, texts)
    torch.testing.assert_close(feature_surgery(tokens, texts[order]), whole[..., order])
    torch.testing.assert_close(feature_surgery(tokens[1:2], texts), whole[1:2])


def test_formula_by_hand() -> None:
    tokens, texts = unit(1, 3, 4, seed=1), unit(2, 4, seed=2)
    cosine = tokens[0] @ texts.T
    share = torch.exp(2 * cosine[0]) / torch.exp(2 * cosine[0]).sum()
    weighted = cosine * share / share.mean()
    expected = torch.stack([(weighted[:, 0] - weighted[:, 1]) / 2, (weighted[:, 1] - weighted[:, 0]) / 2], dim=-1)
    torch.testing.assert_close(feature_surgery(tokens, texts)[0], expected)


def test_single_text_needs_something_redundant() -> None:
    tokens, texts, redundant = unit(1, 3, 4, seed=1), unit(1, 4, seed=2), unit(4, seed=3)
    expected = tokens @ (texts[0] - redundant)
    torch.testing.assert_close(feature_surgery(tokens, texts, redundant)[..., 0], expected)
    with pytest.raises(
        ValueError, match="expected two texts or more, or the embedding of an empty prompt, got neither"
    ):
        feature_surgery(tokens, texts)


@many
@given(seed=st.integers(0, 999), height=st.integers(1, 4), width=st.integers(2, 5), scale=st.floats(0.01, 100))
def test_maps_reach_from_0_to_1(seed: int, height: int, width: int, scale: float) -> None:
    similarity = unit(2, height * width, 3, seed=seed)
    maps = to_maps(similarity, (height, width))
    assert maps.shape == (2, 3, height, width)
    assert torch.equal(maps.amin(dim=(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(maps.amax(dim=(2, 3)), torch.ones(2, 3))
    torch.testing.assert_close(to_maps(scale * similarity - 3, (height, width)), maps, atol=2e-3, rtol=0)
    assert int(maps[1, 2].flatten().argmax()) == int(similarity[1, :, 2].argmax())


def test_alike_everywhere_is_nowhere() -> None:
    assert torch.equal(to_maps(torch.full((1, 6, 2), 0.3), (2, 3)), torch.zeros(1, 2, 2, 3))


def test_upsampling_keeps_the_range_and_the_side() -> None:
    maps = torch.tensor([[[[0.0, 1.0]]]])
    large = upsample(maps, (4, 8))
    assert large.shape == (1, 1, 4, 8)
    assert float(large.min()) == 0.0
    assert float(large.max()) == 1.0
    assert bool((large[..., 4:] > large[..., :4]).all())


def test_empty_prompt_is_an_embedding_of_its_own(frozen: FrozenPart) -> None:
    found = empty_prompt(frozen.vocabulary_encoder)
    assert found.shape == (16,)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(found, frozen.vocabulary_encoder.text_tower.encode(["a "])[0])


def test_the_frozen_part(frozen: FrozenPart) -> None:
    tower = cam_tower_of(frozen, NAMES).train()
    assert not tower.training
    assert not any(value.requires_grad for value in tower.parameters())
    pixels = torch.randn(2, 3, 64, 96)
    maps = tower(pixels)
    assert maps.cams.shape[:2] == (2, 3)
    assert maps.cams.shape[2:] == maps.features.shape[2:]
    assert maps.features.shape[1] == frozen.tower.feature_width
    assert 0 <= float(maps.cams.min()) <= float(maps.cams.max()) <= 1
    torch.testing.assert_close(tower(pixels[1:]).cams, maps.cams[1:], atol=2e-3, rtol=1e-3)
    assert not maps.cams.requires_grad


def test_single_class_uses_the_empty_prompt(frozen: FrozenPart) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    found = cam_tower_of(frozen, NAMES[:1])(pixels).cams
    assert float(found.max()) == pytest.approx(1.0)
    encoder = frozen.vocabulary_encoder
    other = CamTower(tower=frozen.tower, texts=encoder.encode(NAMES[:1]).embeddings, redundant=unit(16, seed=5))
    assert not torch.allclose(other(pixels).cams, found)


def test_what_a_cache_keeps_comes_back(frozen: FrozenPart) -> None:
    tower = cam_tower_of(frozen, NAMES)
    pixels = torch.randn(2, 3, 64, 64)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    joined, kept = tower.features(ImageBatch(pixels, mask, ((64, 64),) * 2, ((64, 64),) * 2))
    assert torch.equal(kept.features, pixels)
    back, maps = tower.split(joined.features), tower(pixels)
    assert torch.equal(back.cams, maps.cams)
    assert torch.equal(back.features, maps.features)


def test_caches_can_tell_vocabularies_apart(frozen: FrozenPart) -> None:
    first, second = (cam_tower_of(frozen, names).state_dict() for names in (NAMES, NAMES[::-1]))
    assert not torch.equal(first["texts"], second["texts"])
    assert first["setting"].tolist() == list(frozen.tower.setting)
