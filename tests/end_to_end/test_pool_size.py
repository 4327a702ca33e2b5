"""Another grid of cells for regions by `--set prompts.pool_size`: trained, saved, measured, detected with, exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.detector import Detector, read_config
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.variants import CropDetector
from cora.regions import FastAlignment
from cora.towers import interpolate_positions
from tests.toy_nano import nano_config, toy_nano

pytestmark = pytest.mark.integration

OLD, NEW = 3, 5


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of the kind of nano-ovcoco with a prompt that is not zero; regions are pooled to 3 x 3 cells."""
    folder = tmp_path_factory.mktemp("nano")
    config = nano_config(detector=False, box_stages=(3, 4), fine_bins=2)
    toy_nano(folder / "cache", config, seed=1).save(folder / "nano.safetensors")
    assert config.tower.pool_size == OLD
    return folder / "nano.safetensors"


def network(path: Path) -> Detector:
    return cora.load(path).detector


def train(stage: str, model: Path, folder: Path, run: Path, *settings: str) -> list[str]:
    """The command, of one epoch."""
    images = ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json")]
    start = ["--model", str(model), "--split", str(folder / "split.json"), "--run", str(run), "--device", "cpu"]
    small = ["prompts.epochs=1", "prompts.batch=5", "localizer.epochs=1", "localizer.batch=5", "data.versions=1"]
    return ["train", stage, *images, *start, *(word for one in (*small, *settings) for word in ("--set", one))]


@pytest.fixture(scope="module")
def prompted(nano: Path, boxed_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a prompt trained for the new grid."""
    run = tmp_path_factory.mktemp("prompted") / "run"
    assert main(train("prompts", nano, boxed_photos, run, f"prompts.pool_size={NEW}")) == 0
    return run


def test_the_prompt_learns_on_the_new_grid_from_the_old_one(prompted: Path, nano: Path) -> None:
    config, _ = read_config(prompted / "prompts.safetensors")
    assert config.tower.pool_size == NEW
    start, trained = load_file(nano), load_file(prompted / "prompts.safetensors")
    assert {name for name in start if start[name].shape != trained[name].shape} == {"prompt.offset"}
    resampled = interpolate_positions(start.pop("prompt.offset").float(), (NEW, NEW))
    learned = trained["prompt.offset"]
    assert learned.shape == resampled.shape
    assert 0 < float((learned - resampled).abs().mean()) < 0.5 * float(resampled.abs().mean())
    assert all(torch.equal(value.half(), trained[name].half()) for name, value in start.items())


def test_the_same_command_again_changes_nothing(
    prompted: Path, nano: Path, boxed_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_file(prompted / "prompts.safetensors")
    assert main(train("prompts", nano, boxed_photos, prompted, f"prompts.pool_size={NEW}")) == 0
    said = capsys.readouterr().out
    assert "Regions are pooled to 5 x 5 cells, before to 3 x 3; the region prompt is resampled" in said
    after = load_file(prompted / "prompts.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert main(train("prompts", nano, boxed_photos, prompted, "prompts.pool_size=4")) == 2
    assert "prompts.pool_size was 5, now 4; use another run folder" in capsys.readouterr().err


def test_the_result_is_measured_and_detects(prompted: Path, boxed_photos: Path, tmp_path: Path) -> None:
    model = ["--model", str(prompted / "prompts.safetensors"), "--device", "cpu"]
    images, boxes = str(boxed_photos / "images"), str(boxed_photos / "annotations.json")
    numbers = tmp_path / "regions.json"
    measured = ["region-accuracy", "--images", images, "--annotations", boxes, *model, "--resamples", "5"]
    assert main([*measured, "--json", str(numbers)]) == 0
    report = json.loads(numbers.read_text())
    everything = report["accuracy"]["prompt"]["all"]["all"]
    assert (report["images"], everything["boxes"], everything["classes"]) == (10, 20, 3)
    assert 0 <= everything["top1"]["low"] <= everything["top1"]["value"] <= everything["top1"]["high"] <= 1
    photo = str(boxed_photos / "images" / "0.png")
    found = ["--classes", "red square, blue square", "--score", "0.0001", "--json", str(tmp_path / "found.json")]
    assert main(["detect", photo, *found, "--output", str(tmp_path / "drawn"), *model]) == 0
    assert json.loads((tmp_path / "found.json").read_text())


def test_fresh_starts_from_zero(
    nano: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(train("prompts", nano, boxed_photos, run, "prompts.pool_size=2", "fresh=True", "prompts.lr=1e-9")) == 0
    assert "before to 3 x 3; the region prompt starts from zero" in capsys.readouterr().out
    offset = load_file(run / "prompts.safetensors")["prompt.offset"]
    assert offset.shape[0] == 4
    assert float(offset.abs().max()) < 1e-7


def test_all_stages_of_a_clip_resnet_and_its_fast_alignment(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector, model, run = network(tiny_model), tmp_path / "aligned.safetensors", tmp_path / "run"
    alignment = FastAlignment(embed_dim=detector.config.tower.embed_dim)
    torch.nn.init.normal_(alignment.shift.weight)
    detector.align_fast_pooling(alignment)
    detector.save(model)
    assert main(train("all", model, boxed_photos, run, "prompts.pool_size=4")) == 0
    said = capsys.readouterr().out
    assert "fitted for the old cells and is set to zero; it is fitted again at the end of the localizer's" in said
    prompts, whole = (load_file(run / f"{name}.safetensors") for name in ("prompts", "model"))
    assert prompts["prompt.offset"].shape == prompts["image_tower.net.attnpool.positional_embedding"].shape
    assert prompts["prompt.offset"].shape[0] == 17
    assert not prompts["fast_alignment.shift.weight"].any()
    assert bool(whole["fast_alignment.shift.weight"].any())
    assert read_config(run / "model.safetensors")[0].tower.pool_size == 4
    # Without --force the command keeps the file only if it gives what the model gives.
    model, program = run / "model.safetensors", tmp_path / "model.pt2"
    export = ["export", "--format", "exported-program", "--model", str(model), "--output", str(program)]
    assert main([*export, "--size", "96x128", "--batch", "1"]) == 0
    assert program.is_file()


def test_finetuning_measures_the_model_as_it_was_before(nano: Path, boxed_photos: Path, tmp_path: Path) -> None:
    images = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    settings = ["prompts.pool_size=4", "prompts.epochs=1", "proposals=None", "names.epochs=1", "data.versions=1"]
    run = ["--run", str(tmp_path / "run"), "--model", str(nano), "--device", "cpu", "--epochs", "1"]
    command = ["finetune", *images, *run, *(word for one in settings for word in ("--set", one))]
    assert main(command) == 0
    measured = json.loads((tmp_path / "run" / "before.json").read_text())["key"]["model"]
    assert measured == weights_fingerprint(network(nano))
    assert read_config(tmp_path / "run" / "model.safetensors")[0].tower.pool_size == 4
    assert main(command) == 0  # what was done is taken as it is


@pytest.mark.parametrize("size", ["0", "-3", "100"])
def test_sizes_that_make_no_sense(
    size: str, nano: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train("prompts", nano, boxed_photos, tmp_path / "run", f"prompts.pool_size={size}")) == 2
    message = capsys.readouterr().err
    assert message.startswith("cora: error: ")
    assert f"expected pool_size in 1..32, got {size}" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_variant_keeps_its_grid(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "crops.safetensors"
    CropDetector.of(network(tiny_model)).save(model)
    assert main(train("prompts", model, boxed_photos, tmp_path / "run", "prompts.pool_size=4")) == 2
    message = capsys.readouterr().err
    assert "pool_size 4: expected CORA itself, got its variant 'crops'" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
