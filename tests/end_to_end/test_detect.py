"""From images to boxes: the installed command and the Python interface, with a real if random network."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cora
from cora.apps.cli import main

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))
NAMES = ["cat", "coffee cup", "astronaut"]


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cora", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_command_and_python_agree(tiny_model: Path, tmp_path: Path) -> None:
    options = ["--classes", ", ".join(NAMES), "--model", tiny_model, "--score", "0", "--json", "boxes.json"]
    done = run("detect", *PHOTOS, *options, "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"in {len(PHOTOS)} images." in done.stdout
    content = json.loads((tmp_path / "boxes.json").read_text())
    assert [category["name"] for category in content["categories"]] == NAMES
    detector = cora.load(tiny_model)
    for photo, entry in zip(PHOTOS, content["images"], strict=True):
        with Image.open(photo) as image:
            assert (entry["width"], entry["height"]) == image.size
        with Image.open(tmp_path / "cora-output" / photo.name) as drawn:
            assert drawn.size == (entry["width"], entry["height"])
        found = detector.predict(photo, NAMES, score=0)
        assert len(found) > 0
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == entry["id"]]
        expected = [result["bbox"] for result in found.to_coco(entry["id"])]
        np.testing.assert_allclose(boxes, expected, atol=0.05)


def test_every_kind_of_source_gives_the_same(tiny_model: Path) -> None:
    detector = cora.load(tiny_model)
    with Image.open(PHOTOS[0]) as image:
        picture = image.convert("RGB")
    one = detector.predict(picture, NAMES, score=0)
    for source in (PHOTOS[0], str(PHOTOS[0]), np.asarray(picture)):
        other = detector.predict(source, NAMES, score=0)
        torch.testing.assert_close(other.boxes_xyxy_px, one.boxes_xyxy_px)
        torch.testing.assert_close(other.scores, one.scores)
    several = detector.predict([picture, PHOTOS[1]], NAMES, score=0)
    assert isinstance(several, list)
    assert len(several) == 2
    torch.testing.assert_close(several[0].scores, one.scores)


def test_boxes_lie_inside_and_best_come_first(tiny_model: Path) -> None:
    found = cora.load(tiny_model).predict(PHOTOS[0], NAMES, score=0)
    height, width = found.image_size
    assert (found.boxes_xyxy_px >= 0).all()
    assert (found.boxes_xyxy_px <= torch.tensor([width, height, width, height])).all()
    assert (found.scores.diff() <= 0).all()
    assert found.draw().size == (width, height)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_odd_sizes(tiny_model: Path, size: tuple[int, int]) -> None:
    found = cora.load(tiny_model).predict(Image.new("RGB", size, "red"), NAMES, score=0)
    assert torch.isfinite(found.boxes_xyxy_px).all()
    assert found.draw().size == size


def reshaped(model: Path, folder: Path) -> Path:
    """The same configuration with one tensor of another shape."""
    from safetensors import safe_open

    with safe_open(str(model), framework="pt") as content:
        metadata = content.metadata()
    tensors = load_file(model)
    key = next(name for name, value in tensors.items() if value.ndim == 2)
    tensors[key] = tensors[key][:-1].contiguous()
    path = folder / "reshaped.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path


def test_bad_models_and_names(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("I am no model")
    cases = [
        ("giant", "cat", "nano, "),  # the known models are listed
        ("none.safetensors", "cat", "none.safetensors: expected an existing file, got none"),
        ("text.safetensors", "cat", "text.safetensors"),
        ("other.safetensors", "cat", "cora convert"),
        (str(reshaped(tiny_model, tmp_path)), "cat", "of another shape"),
        (str(tiny_model), "a " + "very " * 80 + "big cat", "77 tokens"),
        (str(tiny_model), "cat, , dog", "got a blank one at position 2"),
    ]
    before = sorted(tmp_path.iterdir())
    too_long = "a " + "very " * 80 + "big tree"
    assert (
        main(["detect", *map(str, PHOTOS), "--classes", "cat", "--model", str(tiny_model), "--distractors", too_long])
        == 2
    )
    assert "77 tokens" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    for model, classes, message in cases:
        assert main(["detect", str(PHOTOS[0]), "--classes", classes, "--model", model]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("cora: error: ")
        assert message in err
        assert err.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before


def test_weights_that_cannot_be_downloaded(tmp_path: Path) -> None:
    # No network and an empty cache: every request goes to a proxy that is not there.
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    environment = {
        **os.environ,
        **nowhere,
        "HF_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("HF_HUB_CACHE", None)
    environment.pop("NO_PROXY", None)
    command = [
        sys.executable,
        "-m",
        "cora",
        "groups",
        "--groups",
        "2",
        "--classes",
        "cat, dog, car",
        "--model",
        "RN50-quickgelu",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cora: error: ")
    assert "looked at" in last
    assert "RN50.pt" in last
    assert "give its path" in last


def test_a_tower_alone_is_refused_before_any_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "drawn"
    command = ["detect", str(PHOTOS[0]), "--classes", "cat", "--output", str(output)]
    assert main([*command, "--model", "RN50-quickgelu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "model RN50-quickgelu: expected a trained localizer" in err
    assert "cora train" in err
    assert "cora region-accuracy" in err
    assert not output.exists()


def test_embedded_model_answers() -> None:
    asset = resources.files("cora") / "assets" / "nano.safetensors"
    assert asset.is_file(), "the package was built without its default model"
    found = cora.load("nano").predict(ROOT / "examples" / "cat.jpg", ["cat", "bicycle"], score=0.01)
    assert len(found) > 0
    assert torch.isfinite(found.boxes_xyxy_px).all()
