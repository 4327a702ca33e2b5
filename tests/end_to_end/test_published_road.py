"""From the authors' files to numbers and to a model of one's own, offline, on files of their complete layout."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.data.class_split import known_split
from cora.detector import Detector, read_config
from cora.towers import download
from tests.published_files import TOY, TOY_SIZES, clip_weights, main_checkpoint, published_state, write_archive

COCO = known_split("coco")
LOCALIZER = (
    "train localizer recipe.py --images images --annotations relabelled.json --split coco --device cpu --run run "
    "--val-images images --val-annotations instances.json"
)
RECIPE = """
from dataclasses import replace

from cora.data.transforms import AugmentConfig
from cora.training.defaults import published_recipe


def recipe():
    published = published_recipe("RN50-quickgelu")
    small = AugmentConfig(short_sides=(64, 96), long_side=160, crop=0.5, crop_short_sides=(96,), crop_sides=(48, 90))
    return replace(
        published,
        data=replace(published.data, augment=small, workers=0),
        prompts=replace(published.prompts, epochs=1, batch=2),
        localizer=replace(published.localizer, epochs=2, batch=2),
        evaluate_every=1,
    )
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this road needs no network")

    monkeypatch.setattr(download, "_ask", refuse)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authors' files, a small COCO in the official layout, and the road walked to its end."""
    folder = tmp_path_factory.mktemp("road")
    torch.save(main_checkpoint(TOY_SIZES, averaged=True), folder / "checkpoint.pth")
    torch.save(main_checkpoint(TOY_SIZES, averaged=False, seed=1), folder / "no_ema.pth")
    clip = clip_weights(TOY)
    write_archive(clip, folder / "RN50.pt")
    table = clip["visual.attnpool.positional_embedding"].float()
    torch.save({"attnpool.positional_embedding": table + 0.01}, folder / "region_prompt_R50.pth")
    write_coco(folder)
    (folder / "recipe.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        walk()
    return folder


def write_coco(folder: Path) -> None:
    random, names = np.random.default_rng(0), [*COCO.all, "wine glass"]
    classes = [(0, 1), (2, 50), (3, 4), (65,), ()]  # base; base and novel; base; of the other 15; no box at all
    images, boxes = [], []
    (folder / "images").mkdir()
    for number, labels in enumerate(classes):
        pixels = random.integers(0, 255, size=(90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 90})
        for label in labels:
            x, y, w, h = (int(v) for v in (*random.integers(0, 50, size=2), *random.integers(20, 40, size=2)))
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def command(text: str) -> None:
    assert main(text.split()) == 0, text


def walk() -> None:
    photos = "--images images --annotations instances.json --split coco --device cpu"
    command("convert checkpoint.pth --output cora.safetensors")
    command("convert RN50.pt --output clip.safetensors --prompt region_prompt_R50.pth")
    make_small("clip.safetensors")
    command(f"region-accuracy {photos} --model clip.safetensors --resamples 5 --json regions.json")
    command(f"train prompts recipe.py {photos} --model clip.safetensors --run run")
    command(f"relabel {photos} --model run/prompts.safetensors --output relabelled.json --plot confusion.png")
    command(LOCALIZER)
    command(f"evaluate {photos} --model run/model.safetensors --all-boxes --resamples 5 --json trained.json")


def make_small(model: str) -> None:
    """The file as it is but for what costs time: the size of images, sentences a name, queries."""
    found = cora.load(model)
    localizer = replace(found.config.localizer, dim=32, ff=32, enc_layers=1, dec_layers=2, num_queries=40)
    config = replace(
        found.config,
        tower=replace(found.config.tower, templates="plain"),
        localizer=localizer,
        preprocess=replace(found.config.preprocess, short_side=96, long_side=160),
    )
    small = Detector.build(config, towers=(found.image_tower, found.text_tower))
    small.prompt.load_state_dict(found.prompt.state_dict())
    small.save(model, dtype=torch.float32)


@pytest.fixture
def here(road: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the road, where commands run as they are written."""
    monkeypatch.chdir(road)
    return road


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("source", "seed", "weights", "scale"),
    [("checkpoint.pth", 0, "", 0.5), ("checkpoint.pth", 0, "--weights model", 1.0), ("no_ema.pth", 1, "", 1.0)],
)
def test_the_checkpoint_is_read_whole(source: str, seed: int, weights: str, scale: float) -> None:
    command(f"convert {source} --output one.safetensors {weights}")
    state, found = published_state(TOY_SIZES, seed=seed), load_file("one.safetensors")
    pairs = {
        "localizer.learned_anchors.logits": state["query_embed.weight"] * scale,
        "localizer.objectness_head.bias": state["objectness_embed.bias"] * scale,
        "localizer.decoder.box_heads.2.layers.2.weight": state["bbox_embed.2.layers.2.weight"] * scale,
        "image_tower.net.layer4.0.conv1.weight": state["backbone.0.layer4.0.conv1.weight"],
        "text_tower.net.text_projection": state["classifier.text_projection"],
    }
    for name, expected in pairs.items():
        assert float((found[name] - expected).abs().max()) <= 1e-6 * float(expected.abs().max()), name


@pytest.mark.usefixtures("here")
def test_averaged_weights_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "no_ema.pth", "--output", "two.safetensors", "--weights", "ema"]) == 2
    assert "expected weights under 'model_ema', got none there" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_what_is_a_tower_and_what_detects(capsys: pytest.CaptureFixture[str]) -> None:
    models = {"clip": False, "run/prompts": False, "run/model": True, "cora": True}
    for name, detects in models.items():
        assert read_config(f"{name}.safetensors")[0].untrained != detects
        options = ["--classes", "cat", "--output", "drawn", "--device", "cpu", "--short-side", "96"]
        code = main(["detect", "images/0.png", "--model", f"{name}.safetensors", *options])
        assert code == (0 if detects else 2)
        assert ("expected a trained localizer" in capsys.readouterr().err) != detects


@pytest.mark.usefixtures("here")
def test_image_sets_are_the_benchmarks() -> None:
    for file in ("regions.json", "trained.json"):
        assert json.loads(Path(file).read_text())["images"] == 3
    boxes = json.loads(Path("relabelled.json").read_text())["annotations"]
    assert sum("original_category_id" in box for box in boxes) == 5


@pytest.mark.usefixtures("here")
def test_the_first_lines_tell_images_and_batches(capsys: pytest.CaptureFixture[str]) -> None:
    command(LOCALIZER)  # nothing is left to train
    out = " ".join(capsys.readouterr().out.split())
    assert "OV-COCO: 3 of 5 images to train on" in out
    assert "OV-COCO: 3 of 5 images to test on" in out
    assert "localizer: 2 images a step, 2 in 1 process; the recipe means 16" in out
