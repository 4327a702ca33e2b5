"""From open_clip's file of a ConvNeXt CLIP to a detector of one's own, through the commands."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.detector import read_config
from cora.images import PreprocessConfig
from cora.towers import ConvNeXtTower, download
from tests.end_to_end.test_published_road import LOCALIZER, RECIPE, command, make_small, write_coco
from tests.toy_convnext import open_clip_model

pytestmark = pytest.mark.integration
PHOTOS = "--images images --annotations instances.json --split coco --device cpu"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the road was walked to its end, without network."""
    folder = tmp_path_factory.mktemp("road")
    torch.save({"state_dict": open_clip_model().state_dict()}, folder / "open_clip_pytorch_model.bin")
    write_coco(folder)
    (folder / "recipe.py").write_text(RECIPE.replace("RN50-quickgelu", "convnext_base_w"))

    def refuse(*_: object) -> None:
        raise AssertionError("this road needs no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(download, "_ask", refuse)
        command("convert open_clip_pytorch_model.bin --output clip.safetensors")
        assert read_config("clip.safetensors")[0].preprocess == PreprocessConfig(multiple=32, whole=True)
        make_small("clip.safetensors")
        command(f"region-accuracy {PHOTOS} --model clip.safetensors --crops --resamples 5 --json regions.json")
        command(f"train prompts recipe.py {PHOTOS} --model clip.safetensors --run run")
        command(f"relabel {PHOTOS} --model run/prompts.safetensors --output relabelled.json")
        command(LOCALIZER)
        command(f"evaluate {PHOTOS} --model run/model.safetensors --all-boxes --resamples 5 --json trained.json")
    return folder


@pytest.fixture(autouse=True)
def _here(road: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(road)


def test_each_stage_trains_its_part_only() -> None:
    clip, prompts, model = (
        {tensor: value.half() for tensor, value in load_file(f"{name}.safetensors").items()}
        for name in ("clip", "run/prompts", "run/model")
    )
    towers = [name for name in clip if name.startswith(("image_tower.", "text_tower."))]
    assert len(towers) > 50
    assert all(torch.equal(other[name], clip[name]) for name in towers for other in (prompts, model))
    assert not clip["prompt.offset"].any()
    assert bool((prompts["prompt.offset"] != 0).all())
    assert torch.equal(model["prompt.offset"], prompts["prompt.offset"])
    changed = [name for name in clip if name.startswith("localizer.") and not torch.equal(clip[name], model[name])]
    assert len(changed) > 20
    assert read_config("run/prompts.safetensors")[0].untrained
    assert not read_config("run/model.safetensors")[0].untrained


def test_what_is_measured() -> None:
    accuracy = json.loads(Path("regions.json").read_text())["accuracy"]
    assert {"prompt", "no prompt", "crops"} <= accuracy.keys()
    assert json.loads(Path("trained.json").read_text())["images"] == 3


def test_the_model_loads_and_detects(capsys: pytest.CaptureFixture[str]) -> None:
    model = cora.load("run/model.safetensors")
    assert isinstance(model.detector.image_tower, ConvNeXtTower)
    with Image.open("images/0.png") as image:
        found = model.predict(image.convert("RGB"), ["cat", "dog"], score=0.0)
    assert len(found) > 0
    assert main(["models", "clip.safetensors"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "convnext_base_w" in listed
    assert "ConvNeXt of 1+1+2+3" in listed


@pytest.mark.parametrize(
    "line",
    [
        "prune --images images --model run/model.safetensors --heads 0.5 --output small.safetensors",
        "convert open_clip_pytorch_model.bin --output two.safetensors --prompt prompt.pth",
    ],
)
def test_what_needs_the_parts_of_a_resnet_refuses(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"attnpool.positional_embedding": torch.zeros(10, 64)}, "prompt.pth")
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert "expected a model whose image tower is a CLIP ResNet, got another kind" in err
    assert err.count("\n") == 1
    assert not Path("small.safetensors").exists()
    assert not Path("two.safetensors").exists()
