"""open_clip's ConvNeXts as image towers: the same numbers, the same names of tensors, frozen, by name and by file."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch.nn import functional as F

from cora.detector.clip_file import infer_tower
from cora.errors import ModelError
from cora.structures import ImageBatch
from cora.towers import ConvNeXtTower, TowerConfig, build_clip_towers, known_towers, load_towers, tower_config
from cora.towers.known import default_tag
from cora.towers.weights import load_clip_weights
from tests.tolerances import assert_near
from tests.toy_convnext import convnext_config, open_clip_model


@pytest.fixture(scope="module", params=["linear", "mlp"])
def pair(request: pytest.FixtureRequest) -> tuple[CLIP, ConvNeXtTower]:
    """open_clip's own model, and a tower with its weights."""
    model = open_clip_model(request.param)
    tower, text_tower = build_clip_towers(convnext_config(request.param))
    scale = load_clip_weights(model.state_dict(), tower, text_tower, source="test")
    assert scale == pytest.approx(model.logit_scale.exp().item())
    assert isinstance(tower, ConvNeXtTower)
    return model, tower


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 96), (64, 160), (99, 131)])
def test_the_global_embedding_is_open_clips(pair: tuple[CLIP, ConvNeXtTower], size: tuple[int, int]) -> None:
    model, tower = pair
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found, expected = tower.encode_image(pixels), model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3  # the images do differ


@torch.no_grad()
def test_maps_are_timms(pair: tuple[CLIP, ConvNeXtTower]) -> None:
    model, tower = pair
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    pixels = torch.randn(2, 3, 64, 96)
    c3, c4 = tower.features(ImageBatch(pixels, mask, ((64, 96), (64, 64)), ((64, 96), (64, 64))))
    stages = model.visual.trunk.forward_intermediates(pixels, intermediates_only=True)
    torch.testing.assert_close(c3.features, stages[2])
    torch.testing.assert_close(tower.last_block(c4.features), stages[3])
    assert c3.extents_hw.tolist() == [[4, 6], [4, 4]]
    assert c4.mask[1].tolist() == [[False, False, True]] * 2
    assert (tower.c3_channels, tower.c4_channels, tower.embed_dim) == (32, 64, 24)
    assert tower.c3_channels == convnext_config().c3_channels
    assert tower.prompt_shape == (9, 64)
    assert not tower.positions.any()


@torch.no_grad()
def test_folding_changes_rounding_only(pair: tuple[CLIP, ConvNeXtTower]) -> None:
    tower = pair[1]
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    folded, pixels = tower.for_inference(torch.float32), torch.randn(2, 3, 96, 64)
    assert not any(name.endswith("gamma") for name in folded.state_dict())
    torch.testing.assert_close(folded.encode_image(pixels), tower.encode_image(pixels), rtol=1e-4, atol=1e-5)
    halved = tower.for_inference(torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    near = F.cosine_similarity(halved.encode_image(pixels.bfloat16()).float(), tower.encode_image(pixels))
    assert near.min() > 0.99
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_it_is_frozen(pair: tuple[CLIP, ConvNeXtTower]) -> None:
    tower = pair[1]
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.train()
    first, again = (tower.encode_image(torch.ones(1, 3, 64, 64)) for _ in range(2))
    assert torch.equal(first, again)
    assert not any(module.training for module in tower.modules())
    assert not any(value.requires_grad for value in tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@torch.no_grad()
def test_images_do_not_see_each_other(pair: tuple[CLIP, ConvNeXtTower]) -> None:
    pixels, mask = torch.randn(3, 3, 64, 96), torch.zeros(3, 64, 96, dtype=torch.bool)
    together = pair[1].maps(pixels, mask)
    for place in range(3):
        one = slice(place, place + 1)
        for alone, both in zip(pair[1].maps(pixels[one], mask[one]), together, strict=True):
            assert_near(alone.features, both.features[one])


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("kind", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_files_of_open_clip_load(tmp_path: Path, kind: str, projection: str) -> None:
    weights, file = open_clip_model(projection).state_dict(), tmp_path / kind
    if kind.endswith("safetensors"):
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, file)
    tower, text_tower, _ = load_towers("convnext_base_w", file, config=convnext_config(projection))
    assert torch.equal(tower.net.state_dict()["trunk.stem.0.weight"], weights["visual.trunk.stem.0.weight"])
    assert torch.equal(text_tower.net.text_projection, weights["text_projection"])
    assert {f"visual.{name}" for name in tower.net.state_dict()} == {n for n in weights if n.startswith("visual.")}


def test_sizes_are_inferred_from_tensors() -> None:
    for projection in ("linear", "mlp"):
        found = infer_tower(open_clip_model(projection).state_dict(), source="test")
        assert found == replace(convnext_config(projection), image_size=256, pool_size=8)
    missing = {name: value for name, value in open_clip_model().state_dict().items() if "head.proj" not in name}
    with pytest.raises(ModelError, match=r"weights of a CLIP ConvNeXt.*without visual\.head\.mlp\.fc2\.weight"):
        infer_tower(missing, source="test")
    partial = {name: value for name, value in open_clip_model().state_dict().items() if "stages.1" not in name}
    with pytest.raises(ModelError, match="weights of a CLIP ConvNeXt, but layers: expected four positive"):
        infer_tower(partial, source="test")


@pytest.mark.parametrize("name", ["convnext_base_w", "convnext_large_d_320", "convnext_xxlarge"])
def test_known_sizes_are_open_clips(name: str) -> None:
    described = open_clip.get_model_config(name)
    with torch.device("meta"):
        tower, text_tower = build_clip_towers(tower_config(name))
        model = CLIP(**described)
    own = {f"visual.{key}": value.shape for key, value in tower.net.state_dict().items()}
    own |= {key: value.shape for key, value in text_tower.net.state_dict().items()}
    state = model.state_dict()
    assert own == {key: value.shape for key, value in state.items() if key != "logit_scale"}
    assert isinstance(tower, ConvNeXtTower)
    assert tower.net.trunk.head.norm.eps == model.visual.trunk.head.norm.eps
    assert tower.pool_size == described["vision_cfg"]["image_size"] // 32
    # Tensors do not tell the size of the images: of two towers that differ in nothing else the smaller is taken.
    smaller = name.removesuffix("_320")
    assert infer_tower(state, source=name) == tower_config(smaller)


def test_names_and_their_weights() -> None:
    assert "convnext_base_w" in known_towers()
    assert "convnext_tiny" not in known_towers()  # nobody published weights
    for name in known_towers():
        assert default_tag(name) in open_clip.list_pretrained_tags_by_model(name)


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match='family: expected "resnet" or "convnext", got \'vit\''):
        TowerConfig(family="vit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='projection: expected "linear" or "mlp"'):
        TowerConfig(projection="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backbone: expected none beside a tower of family convnext"):
        TowerConfig(family="convnext", backbone="tf_efficientnet_lite0")
