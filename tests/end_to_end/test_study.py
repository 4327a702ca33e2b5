"""`cora study` and `cora cam` on toy images: what they print and write, that a second run goes on, bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cora.apps.cli import main
from cora.study.artefact import read_study

pytestmark = pytest.mark.integration

SETTINGS = {
    "tower": {"image_size": [64, 64], "layers": 1},
    "model": {"cam_resolution": [8, 8], "image_channels": 8, "hidden": 8},
    "train": {"epochs": 2, "batch": 4, "lr": 0.003, "versions": 1},
}


def photos(folder: Path, *, prefix: str = "--") -> list[str]:
    return [f"{prefix}images", str(folder / "images"), f"{prefix}annotations", str(folder / "annotations.json")]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, boxed_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study that was also measured, with a detector."""
    folder = tmp_path_factory.mktemp("study")
    settings = folder / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    options = ["--split", str(boxed_photos / "split.json"), "--config", str(settings), "--tower", str(tiny_model)]
    held_out = [*photos(boxed_photos, prefix="--val-"), "--detector", str(tiny_model)]
    run = ["--run", str(folder / "run"), "--device", "cpu", "--resamples", "20"]
    command = ["study", "train", *photos(boxed_photos), *options, *held_out, *run]
    assert main(command) == 0
    first = load_file(folder / "run" / "study.safetensors")
    assert main(command) == 0  # nothing is left to do
    again = load_file(folder / "run" / "study.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    return folder / "run"


def test_training_leaves_a_study_and_a_report(trained: Path) -> None:
    study = read_study(trained / "study.safetensors")
    assert study.class_names == ("red square", "green square")  # the base classes
    assert study.config.train.epochs == 2
    report = json.loads((trained / "report.json").read_text())
    assert report["images"] == 10
    assert report["learned_classes"] == list(study.class_names)
    assert report["groups"].keys() == {"base", "novel", "all"}
    rows = {"study", "one-size boxes", "detector told the classes"}
    for group in report["groups"].values():
        assert group.keys() == rows
        for row in group.values():
            assert sum(row["histogram"]) == row["boxes"] > 0
    boxes = {name: group["study"]["boxes"] for name, group in report["groups"].items()}
    assert boxes["base"] + boxes["novel"] == boxes["all"] == 20
    assert report["classes"]["study"].keys() == {"red square", "green square", "blue square"}
    share = report["groups"]["all"]["study"]["shares"]["0.5"]["value"]
    expected = "classification" if share > 0.7 else "localization" if share < 0.5 else "both"
    assert report["verdict"] == expected
    with Image.open(trained / "histogram.png") as plot:
        assert plot.size == (900, 470)
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 4


def test_evaluating_the_file_gives_the_same_numbers(
    trained: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "e.json"), "--plot", str(tmp_path / "e.png")]
    split = ["--split", str(boxed_photos / "split.json")]
    run = ["--study", str(trained / "study.safetensors"), "--device", "cpu", "--resamples", "20"]
    assert main(["study", "evaluate", *photos(boxed_photos), *split, *run, *files]) == 0
    out = capsys.readouterr().out
    assert "all: With the class given," in out
    assert "novel: With the class given," in out
    assert "one-size boxes" in out
    one, other = (json.loads(path.read_text()) for path in (tmp_path / "e.json", trained / "report.json"))
    for group, rows in one["groups"].items():
        assert rows["study"] == other["groups"][group]["study"]
    assert one["verdict"] == other["verdict"]
    assert Image.open(tmp_path / "e.png").size == (900, 470)


def test_a_limit_takes_the_first_photos(trained: Path, boxed_photos: Path, tmp_path: Path) -> None:
    run = ["--study", str(trained / "study.safetensors"), "--limit", "3", "--json", str(tmp_path / "e.json")]
    assert main(["study", "evaluate", *photos(boxed_photos), *run, "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["images"] == 3
    assert content["groups"].keys() == {"all"}
    assert content["groups"]["all"]["study"]["boxes"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--val-images", "x"], "expected --val-images and --val-annotations together"),
        (["--detector", "nano"], "expected --val-images and --val-annotations with --detector"),
        (["--checkpoint", "x.pt"], "expected a ViT of open_clip to load x.pt into"),
        (["--tower", "ViT-B-32", "--checkpoint", "x.pt"], "weight file x.pt: expected an existing file"),
        (["--config", "gone.json"], "gone.json: expected a JSON file with the settings of a study"),
        (["--split", "gone.json"], "no class split at gone.json"),
        (["--lr", "0"], "expected a number above 0"),
        (["--limit", "none"], "expected a whole number of 1 or more"),
    ],
)
def test_bad_input_to_training(
    change: list[str], message: str, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    try:
        code = main(["study", "train", *photos(boxed_photos), "--run", str(run), "--device", "cpu", *change])
    except SystemExit as ending:
        code = int(str(ending.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--study", "gone.safetensors"], "study gone.safetensors: expected a file that 'cora study train' wrote"),
        (["--plot", "x.jpg"], "expected a name that ends in .png for the plot"),
        (["--split", "coco"], "lacks 65 of the 65 classes"),
    ],
)
def test_bad_input_to_evaluating(
    change: list[str], message: str, trained: Path, boxed_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--study", str(trained / "study.safetensors"), "--device", "cpu"]
    assert main(["study", "evaluate", *photos(boxed_photos), *run, *change]) == 2
    assert message in capsys.readouterr().err


def test_maps_of_a_picture(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = shutil.copy(boxed_photos / "images" / "0.png", tmp_path / "photo.png")
    options = ["--tower", str(tiny_model), "--layers", "1", "--side", "64", "--device", "cpu"]
    target = tmp_path / "maps" / "cam.png"
    command = ["cam", str(picture), "--output", str(target), *options]
    assert main([*command, "--classes", "red square, green square"]) == 0
    assert "2 maps of 2 x 3 patches" in capsys.readouterr().out  # 120 x 90 pixels
    with Image.open(target) as two:
        width = two.width
    assert main([*command, "--classes", "red square"]) == 0
    with Image.open(target) as one:
        assert one.width < width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png", "--classes", "cat"], "got no file at gone.png"),
        (["gone.png", "--classes", " "], "expected at least one, got an empty list"),
        (["gone.png", "--classes", "cat", "--output", "x.jpg"], "expected a name that ends in .png"),
    ],
)
def test_bad_input_to_maps(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cam", *arguments]) == 2
    assert message in capsys.readouterr().err
