"""Files of other programs: CLIP's own weights, released region prompts, exports that are no weights."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import cora
from cora.apps.cli import main
from cora.detector import Detector, read_checkpoint, read_config
from cora.towers import TowerConfig
from tests.detector.conftest import tiny_detector
from tests.published_files import clip_weights, write_archive

TOWER = TowerConfig(
    layers=(1, 2, 1, 1), width=8, image_size=64, embed_dim=32, text_width=64, text_heads=1, text_layers=2
)


@pytest.fixture(scope="module")
def clip() -> dict[str, Tensor]:
    """A CLIP ResNet's state dict under OpenAI's names, in half precision as OpenAI's are."""
    return clip_weights(TOWER)


def save_as(kind: str, weights: dict[str, Tensor], folder: Path) -> Path:
    file = folder / ("clip.safetensors" if kind == "safetensors" else "clip.pt")
    if kind == "archive":
        write_archive(weights, file, resolution=TOWER.image_size)
    elif kind == "safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    elif kind == "open_clip":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}, file)
    elif kind == "custom text":
        renamed = {n if n.startswith("visual.") or n == "logit_scale" else f"text.{n}": v for n, v in weights.items()}
        torch.save(renamed, file)
    else:
        torch.save(weights, file)
    return file


@pytest.mark.parametrize("kind", ["archive", "plain", "safetensors", "open_clip", "custom text"])
def test_clip_becomes_a_detector_that_says_it_is_untrained(
    clip: dict[str, Tensor],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file, model = save_as(kind, clip, tmp_path), tmp_path / "model.safetensors"
    assert main(["convert", str(file), "--output", str(model)]) == 0
    assert "untrained" in capsys.readouterr().out
    config, _ = read_config(model)
    assert config.untrained
    assert config.tower == TowerConfig(**{**TOWER.__dict__, "logit_scale": config.tower.logit_scale})
    assert config.tower.logit_scale == pytest.approx(100.0, rel=1e-3)
    state = cora.load(model).state_dict()
    for name, value in clip.items():
        if name.startswith("visual.") and value.is_floating_point():
            assert torch.equal(state[f"image_tower.net.{name.removeprefix('visual.')}"], value.float())
    assert torch.equal(state["text_tower.net.text_projection"], clip["text_projection"].float())
    assert main(["models", model.name]) == 0
    detectors, towers = capsys.readouterr().out.split("Only towers")
    assert model.name not in detectors
    assert model.name in towers


def test_two_conversions_are_alike(clip: dict[str, Tensor], tmp_path: Path) -> None:
    file = save_as("plain", clip, tmp_path)
    for name in ("one", "two"):
        torch.randn(3)
        assert main(["convert", str(file), "--output", str(tmp_path / f"{name}.safetensors")]) == 0
    (config, one), (other, two) = (read_checkpoint(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert config == other
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_tower_alone_is_refused_where_boxes_are_needed(
    clip: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photo = tmp_path / "model.safetensors", Path(__file__).parents[2] / "examples" / "cat.jpg"
    assert main(["convert", str(save_as("plain", clip, tmp_path)), "--output", str(model)]) == 0
    capsys.readouterr()
    commands = (
        ["detect", str(photo), "--classes", "cat", "--output", str(tmp_path / "drawn")],
        ["export", "--format", "onnx", "--output", str(tmp_path / "m.onnx")],
        ["batch", str(photo.parent), "--classes", "cat", "--output", "coco", "--to", str(tmp_path / "out")],
    )
    before = sorted(tmp_path.iterdir())
    for command in commands:
        assert main([*command, "--model", str(model)]) == 2, command
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "expected a trained localizer" in err
        assert "cora train" in err
        assert "cora region-accuracy" in err
    assert sorted(tmp_path.iterdir()) == before


def test_gelu_is_told(clip: dict[str, Tensor], tmp_path: Path) -> None:
    file, model = save_as("plain", clip, tmp_path), tmp_path / "model.safetensors"
    assert main(["convert", str(file), "--output", str(model), "--gelu"]) == 0
    assert not read_config(model)[0].tower.quick_gelu


@pytest.mark.parametrize("form", ["published", "table", "backbone", "pool"])
def test_a_released_prompt_is_an_offset_to_the_towers_table(clip: dict[str, Tensor], form: str, tmp_path: Path) -> None:
    name = "attnpool.positional_embedding"
    table = clip[f"visual.{name}"].float() + 0.25 * torch.randn(5, 256).half().float()
    content = {
        "published": {name: table},
        "table": table,
        "backbone": {f"backbone.0.body.{name}": table, "backbone.0.body.bn1.num_batches_tracked": torch.tensor(3)},
        "pool": {"backbone.0.attn_pool.positional_embedding": table},
    }[form]
    torch.save(content, tmp_path / "region_prompt.pth")
    file, model = save_as("archive", clip, tmp_path), tmp_path / "model.safetensors"
    prompt = ["--prompt", str(tmp_path / "region_prompt.pth"), "--dtype", "float32"]
    assert main(["convert", str(file), "--output", str(model), *prompt]) == 0
    detector = cora.load(model)
    torch.testing.assert_close(detector.prompted_positions(), table, atol=1e-6, rtol=1e-6)
    assert torch.equal(detector.image_tower.positions, clip[f"visual.{name}"].float())


def test_prompts_that_do_not_fit(clip: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, prompt, model = save_as("plain", clip, tmp_path), tmp_path / "prompt.pth", tmp_path / "model.safetensors"
    cases: tuple[tuple[object, str], ...] = (
        ({"attnpool.positional_embedding": torch.zeros(50, 256)}, "expected [5, 256], got [50, 256]"),
        ({"head.weight": torch.zeros(3)}, "got 1 unknown, for example head.weight"),
        ({1: 3, 2: 0}, "got none"),
        ([1, 2], "got list"),
        ({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, "got a whole checkpoint"),
    )
    for content, message in cases:
        torch.save(content, prompt)
        assert main(["convert", str(file), "--output", str(model), "--prompt", str(prompt)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not model.exists()
    torch.save({"attnpool.positional_embedding": torch.zeros(5, 256)}, prompt)
    assert main(["convert", str(prompt), "--output", str(model)]) == 2
    assert "give it as --prompt" in capsys.readouterr().err


def test_other_files_are_named_for_what_they_are(
    clip: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(exported, tmp_path / "program.pt2")
    shutil.copy(tmp_path / "program.pt2", tmp_path / "renamed.pth")
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    (tmp_path / "graph.xml").write_text('<?xml version="1.0"?><net name="m"/>')
    (tmp_path / "vit.pt").write_bytes(b"")
    torch.save({**clip, "visual.class_embedding": torch.zeros(8)}, tmp_path / "vit.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "plain.pt")
    detector = tiny_detector(tmp_path / "cache")
    detector.save(tmp_path / "own.safetensors")
    write_archive({"conv1.weight": torch.zeros(1)}, tmp_path / "script.pt")
    capsys.readouterr()
    cases = {
        "program.pt2": "got a program of torch.export (.pt2)",
        "renamed.pth": "got a program of torch.export (.pt2)",
        "graph.onnx": "got a graph in ONNX",
        "graph.xml": "got a model of OpenVINO",
        "vit.pt": "or a ConvNeXt such as convnext_base_w, got a ViT",
        "plain.pt": "got 1 tensor without backbone",
        "script.pt": "without backbone",
        "own.safetensors": "got one of cora; use it as it is",
    }
    for name, message in cases.items():
        assert main(["convert", str(tmp_path / name), "--output", str(tmp_path / "m.safetensors")]) == 2
        err = capsys.readouterr().err
        assert message in err, err
        assert err.count("\n") == 1
        assert "weights_only" not in err
        assert not (tmp_path / "m.safetensors").exists()
    photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
    assert main(["detect", str(photo), "--classes", "cat", "--model", str(tmp_path / "program.pt2")]) == 2
    assert "got a program of torch.export (.pt2)" in capsys.readouterr().err


def test_weights_that_are_asked_for_must_be_there(
    clip: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_as("plain", clip, tmp_path)
    assert main(["convert", str(file), "--output", str(tmp_path / "m.safetensors"), "--weights", "ema"]) == 2
    assert "expected weights under 'model_ema', got none there; leave out --weights" in capsys.readouterr().err


def test_a_mark_that_is_not_set_is_not_written(detector: Detector, tmp_path: Path) -> None:
    assert "untrained" not in detector.config.to_dict()
    detector.save(tmp_path / "m.safetensors")
    assert not read_config(tmp_path / "m.safetensors")[0].untrained
