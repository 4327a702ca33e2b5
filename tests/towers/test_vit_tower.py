"""ViTs by name and file: the formats that weights come in, and what is refused."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cora.errors import ModelError
from cora.towers import TextTower
from cora.towers import vit_tower as module
from cora.towers.surgery import VitSurgery
from cora.towers.vit_tower import build_vit, known_vits, load_vit

NAME = "ViT-toy"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 6, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy among open_clip's names."""
    names = ["RN50", "ViT-B-32", NAME]
    known = open_clip.get_model_config
    monkeypatch.setattr(module.open_clip, "list_models", lambda: names)
    monkeypatch.setattr(module.open_clip, "get_model_config", lambda name: CONFIG if name == NAME else known(name))


def weights() -> dict[str, Tensor]:
    """A state dict with open_clip's names, as RemoteCLIP's files have them."""
    torch.manual_seed(1)
    model = open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.model.CLIPVisionCfg(**CONFIG["vision_cfg"]),  # type: ignore[arg-type]
        text_cfg=open_clip.model.CLIPTextCfg(**CONFIG["text_cfg"]),  # type: ignore[arg-type]
    )
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_known_are_the_plain_vits() -> None:
    assert known_vits() == ["ViT-B-32", NAME]


@pytest.mark.parametrize("kind", ["plain", "nested", "safetensors"])
def test_a_file_in_open_clips_format(tmp_path: Path, kind: str) -> None:
    state = weights()
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "RemoteCLIP-toy.pt")
    if kind == "safetensors":
        save_file(state, file)
    else:
        nested = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
        torch.save(state if kind == "plain" else nested, file)
    tower, text_tower = load_vit(NAME, file, layers=2)
    assert torch.equal(tower.net.conv1.weight, state["visual.conv1.weight"])
    assert torch.equal(text_tower.net.text_projection, state["text_projection"])
    assert tower(torch.randn(1, 3, 32, 48)).tokens.shape == (2, 1, 1 + 6, 16)
    assert text_tower.encode(["a cat"]).shape == (1, 16)


def test_random_weights_are_frozen_towers() -> None:
    tower, text_tower = load_vit(NAME, None)
    assert isinstance(tower, VitSurgery)
    assert isinstance(text_tower, TextTower)
    assert not any(value.requires_grad for part in (tower, text_tower) for value in part.parameters())


def test_another_size_is_refused(tmp_path: Path) -> None:
    state = weights()
    state["visual.proj"] = torch.zeros(64, 8)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"1 tensors of another shape, for example proj: expected \[64, 16\], got"):
        load_vit(NAME, tmp_path / "other.pt")


def test_a_resnets_file_is_refused(tmp_path: Path) -> None:
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(ModelError, match="missing and 1 unknown"):
        load_vit(NAME, tmp_path / "resnet.pt")


class Code:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Path, ("executed",)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"visual.proj": Code()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="holds more than tensors and could run code"):
        load_vit(NAME, tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-Z", None, "unknown tower 'ViT-Z': expected one of ViT-B-32"),
        (NAME, Path("gone.pt"), "gone.pt: expected an existing file"),
        (NAME, "openai", "OpenAI's weights need QuickGELU; take ViT-toy-quickgelu"),
    ],
)
def test_bad_names(name: str, pretrained: str | Path | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_vit(name, pretrained)


def test_activation_follows_the_configuration() -> None:
    for quick in (False, True):
        towers = build_vit(vision=CONFIG["vision_cfg"], text=CONFIG["text_cfg"], embed_dim=16, quick_gelu=quick)  # type: ignore[arg-type]
        for part in towers:
            kind = type(part.net.transformer.resblocks[0].mlp.gelu).__name__
            assert (kind == "QuickGELU") == quick
