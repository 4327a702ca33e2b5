"""`cora models`: what the package holds, with the facts of each model file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cora.apps.cli import main
from cora.detector import presets, write_sharing_checkpoint
from tests.detector.conftest import tiny_detector


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(presets, "_assets", lambda: tmp_path)
    return tmp_path


def row(name: str, out: str) -> list[str]:
    (line,) = [line for line in out.splitlines() if f" {name} " in line]
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_every_embedded_model_with_its_facts(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = tiny_detector(assets / "cache")
    detector.config = replace(
        detector.config,
        postprocess=replace(detector.config.postprocess, score_threshold=0.25, distractors="everyday"),
    )
    detector.save(assets / "nano.safetensors")
    with torch.no_grad():
        detector.prompt.offset.add_(1)
    config = replace(detector.config, postprocess=replace(detector.config.postprocess, score_threshold=0.4))
    write_sharing_checkpoint(
        assets / "nano-ovcoco.safetensors", config, detector.state_dict(), beside=assets / "nano.safetensors"
    )
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    size = f"{(assets / 'nano.safetensors').stat().st_size / 1e6:.1f} MB"
    assert row("nano", out) == ["nano", size, "0.25", "everyday", presets.EMBEDDED["nano"]]
    name, size, score, distractors, about = row("nano-ovcoco", out)
    assert (name, score, distractors) == ("nano-ovcoco", "0.4", "everyday")
    assert size.endswith(" MB, the rest in nano.safetensors")
    assert "48 base classes only" in about
    assert "RN50-quickgelu" in out


def test_missing_models_are_said_to_be(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert row("nano", out)[1] == row("nano-ovcoco", out)[1] == "not in this package"
    assert main(["detect", str(assets), "--classes", "cat", "--model", "nano-ovcoco"]) == 2


def test_broken_model_is_one_line(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (assets / "nano.safetensors").write_bytes(b"nothing of the kind")
    assert main(["models"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cora: error: ")
    assert err.count("\n") == 1
