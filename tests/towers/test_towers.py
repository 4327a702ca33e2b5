"""Towers: frozen, reachable, loaded from every kind of file, with clear errors."""

import logging
import threading
import warnings
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file

from cora.errors import ModelError, VocabularyError
from cora.structures import ImageBatch
from cora.towers import (
    TowerConfig,
    build_towers,
    byte_pair_tokenizer,
    interpolate_positions,
    known_towers,
    load_towers,
    tower_config,
)
from cora.towers.download import download_weights, is_cached
from cora.towers.weights import load_clip_weights, read_weights

SMALL = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=32, text_width=32, text_heads=1, text_layers=1
)


def open_clip_model(config: TowerConfig) -> CLIP:
    torch.manual_seed(1)
    model = CLIP(
        embed_dim=config.embed_dim,
        vision_cfg=CLIPVisionCfg(layers=config.layers, width=config.width, image_size=config.image_size),
        text_cfg=CLIPTextCfg(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_layers,
        ),
        quick_gelu=config.quick_gelu,
    )
    for parameter in model.parameters():  # the initialisation leaves some at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return open_clip_model(SMALL)


def test_features_have_their_strides_and_masks() -> None:
    image_tower, _ = build_towers(SMALL)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    batch = ImageBatch(torch.randn(2, 3, 64, 96), mask, ((64, 96), (64, 64)), ((64, 96), (64, 64)))
    c3, c4 = image_tower.features(batch)
    assert c3.features.shape == (2, image_tower.c3_channels, 4, 6)
    assert c4.features.shape == (2, image_tower.c4_channels, 2, 3)
    assert c3.extents_hw.tolist() == [[4, 6], [4, 4]]
    assert c4.mask[1].tolist() == [[False, False, True]] * 2
    assert (image_tower.c3_channels, image_tower.c4_channels) == (128, 256)


def test_towers_stay_frozen_whatever_train_says() -> None:
    image_tower, text_tower = build_towers(SMALL)
    before = {name: value.clone() for name, value in image_tower.state_dict().items()}
    parent = torch.nn.ModuleList([image_tower, text_tower, torch.nn.Linear(2, 2)])
    parent.train()
    assert not any(module.training for module in image_tower.modules())
    assert not any(module.training for module in text_tower.modules())
    assert not any(parameter.requires_grad for parameter in [*image_tower.parameters(), *text_tower.parameters()])
    image_tower.encode_image(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in image_tower.state_dict().items())


def test_both_towers_agree_with_open_clip(clip: CLIP) -> None:
    image_tower, text_tower = build_towers(SMALL)
    scale = load_clip_weights(clip.state_dict(), image_tower, text_tower, source="test")
    assert scale == pytest.approx(clip.logit_scale.exp().item())
    pixels = torch.randn(2, 3, 64, 64)
    texts = ["a cat", "a photo of a large remote control.", "dog"]
    tokens = torch.zeros(3, 77, dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text_tower.tokenize(text))] = torch.tensor(text_tower.tokenize(text))
    with torch.no_grad():
        torch.testing.assert_close(image_tower.encode_image(pixels), clip.encode_image(pixels, normalize=True))
        torch.testing.assert_close(text_tower.encode(texts), clip.encode_text(tokens, normalize=True))


def test_texts_do_not_depend_on_their_batch(clip: CLIP) -> None:
    image_tower, text_tower = build_towers(SMALL)
    load_clip_weights(clip.state_dict(), image_tower, text_tower, source="test")
    texts = ["cat", "a very long description of something rare", "red car"]
    together = text_tower.encode(texts)
    text_tower.batch_size = 1
    torch.testing.assert_close(text_tower.encode(texts), together)
    torch.testing.assert_close(text_tower.encode(texts[::-1]), together.flip(0))
    assert text_tower.encode([]).shape == (0, 32)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))


def test_too_long_text_names_itself() -> None:
    config = TowerConfig(**{**SMALL.__dict__, "context_length": 8})
    _, text_tower = build_towers(config)
    with pytest.raises(VocabularyError, match=r"at most 8 tokens, got 12.*shorter"):
        text_tower.encode(["one two three four five six seven eight nine ten"])


@pytest.mark.parametrize("kind", ["open_clip.pt", "nested.bin", "weights.safetensors", "archive.pt", "custom.pt"])
def test_weights_load_from_every_kind_of_file(tmp_path: Path, clip: CLIP, kind: str) -> None:
    file, weights = tmp_path / kind, clip.state_dict()
    if kind == "weights.safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    elif kind == "nested.bin":
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, file)
    elif kind == "custom.pt":
        rest = {name: value for name, value in weights.items() if name.startswith("visual.")}
        rest |= {f"text.{name}": value for name, value in weights.items() if not name.startswith("visual.")}
        rest["logit_scale"] = rest.pop("text.logit_scale")
        torch.save(rest, file)
    elif kind == "archive.pt":
        _save_archive(weights, file)
    else:
        torch.save(weights, file)
    image_tower, text_tower, scale = load_towers("RN50-quickgelu", file, config=SMALL)
    assert scale == pytest.approx(float(weights["logit_scale"].exp()), rel=1e-3)
    assert torch.equal(image_tower.net.conv1.weight, weights["visual.conv1.weight"])
    assert torch.equal(text_tower.net.text_projection, weights["text_projection"])


def _save_archive(weights: dict[str, torch.Tensor], file: Path) -> None:
    """A TorchScript archive that holds the tensors under their names, as OpenAI's files do."""
    root = torch.nn.Module()
    for name, value in {**weights, "input_resolution": torch.tensor(64)}.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(root).save(str(file))


def test_positions_are_interpolated_once_to_another_grid(clip: CLIP, caplog: pytest.LogCaptureFixture) -> None:
    config = TowerConfig(**{**SMALL.__dict__, "pool_size": 5})
    image_tower, text_tower = build_towers(config)
    with caplog.at_level(logging.INFO):
        load_clip_weights(clip.state_dict(), image_tower, text_tower, source="test")
    assert image_tower.attention_pool.positional_embedding.shape == (26, 256)
    assert "5 x 5" in caplog.text
    assert image_tower.encode_image(torch.randn(1, 3, 96, 160)).shape == (1, 32)


def test_interpolation_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(10, 4)
    torch.testing.assert_close(interpolate_positions(table, (3, 3)), table)
    assert interpolate_positions(table, (4, 6)).shape == (25, 4)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ModelError, match=r"unknown tower 'RN5': expected one of .*RN50-quickgelu"):
        load_towers("RN5")
    with pytest.raises(ModelError, match=r"expected one of openai.*or the path"):
        download_weights("RN50-quickgelu", "nonsense")
    assert tower_config("RN50x4-quickgelu").pool_size == 9
    assert "RN101-quickgelu" in known_towers()


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("empty_caches")
def test_failed_download_says_where_it_looked_and_which_file_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: dict[str, str], *, prefer_hf_hub: bool) -> str:
        raise OSError("no route to host\nand more")

    def answer(address: str, answered: dict[str, str | None]) -> None:
        answered[address] = None

    monkeypatch.setattr("cora.towers.download._ask", answer)
    monkeypatch.setattr("cora.towers.download.download_pretrained", fail)
    with pytest.raises(ModelError, match=r"looked at .*no route to host.*RN50\.pt.*give its path") as raised:
        download_weights("RN50-quickgelu", "openai")
    assert "\n" not in str(raised.value)
    assert "cora convert RN50.pt --output RN50.safetensors" in str(raised.value)


@pytest.mark.usefixtures("empty_caches")
def test_nothing_is_fetched_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(address: str, answered: dict[str, str | None]) -> None:
        if "openaipublic" in address:
            threading.Event().wait(20)
        answered[address] = "name or service not known"

    def fetch(config: dict[str, str], *, prefer_hf_hub: bool) -> str:
        raise AssertionError("must not be called")

    monkeypatch.setattr("cora.towers.download._ask", wait)
    monkeypatch.setattr("cora.towers.download.PATIENCE", 0.1)
    monkeypatch.setattr("cora.towers.download.download_pretrained", fetch)
    with pytest.raises(ModelError, match="name or service not known"):
        download_weights("RN50x4-quickgelu", "openai")


@pytest.mark.usefixtures("empty_caches")
def test_files_of_openais_own_cache_need_no_network(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    file = tmp_path / ".cache" / "clip" / "RN50x4.pt"
    file.write_bytes(b"weights")
    assert download_weights("RN50x4-quickgelu", "openai") == file
    assert is_cached("RN50x4-quickgelu")
    assert not is_cached("RN50-quickgelu")


def test_files_that_do_not_fit(tmp_path: Path, clip: CLIP) -> None:
    with pytest.raises(ModelError, match="expected an existing file"):
        load_towers("RN50", tmp_path / "none.pt")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a weight file")
    with pytest.raises(ModelError, match="could not read"):
        read_weights(broken)
    (tmp_path / "broken.pt").write_bytes(b"not a weight file")
    with pytest.raises(ModelError, match="could not read"):
        read_weights(tmp_path / "broken.pt")
    torch.save(clip.state_dict(), tmp_path / "small.pt")
    with pytest.raises(ModelError, match=r"of another shape.*expected \[.*got \["):
        load_towers("RN50", tmp_path / "small.pt", config=TowerConfig(**{**SMALL.__dict__, "embed_dim": 16}))
    partial = {name: value for name, value in clip.state_dict().items() if "layer3" not in name}
    torch.save(partial, tmp_path / "partial.pt")
    with pytest.raises(ModelError, match="missing and 0 unknown, for example layer3"):
        load_towers("RN50", tmp_path / "partial.pt", config=SMALL)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="could not read"):
        read_weights(tmp_path / "trap.pt")


def test_small_vocabulary_writes_any_text() -> None:
    tokenizer = byte_pair_tokenizer(2000)
    full = byte_pair_tokenizer(49408)
    tokens = tokenizer.encode("an extraordinary rhinoceros, naïve")
    assert max(tokens) < 1998
    assert tokenizer.decode(tokens).strip() == full.decode(full.encode("an extraordinary rhinoceros, naïve")).strip()
    assert len(tokens) > len(full.encode("an extraordinary rhinoceros, naïve"))
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (1998, 1999)


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="layers: expected four"):
        TowerConfig(layers=(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of text_heads"):
        TowerConfig(text_width=60, text_heads=8)
    assert TowerConfig(layers=[1, 1, 1, 1]).layers == (1, 1, 1, 1)  # type: ignore[arg-type]
    assert TowerConfig(image_size=96).pool_size == 3
