"""`cora train`, `cora relabel` and `cora finetune` on toy images: what they write, and that a stop costs nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.data.coco import CocoDataset
from cora.data.loader import EpochLoader
from cora.data.shards import write_shards
from cora.training.ema import Ema

pytestmark = pytest.mark.integration

#: Few and small steps; the maps of the frozen tower are cached.
RECIPE = """
from cora.data.transforms import AugmentConfig
from cora.training.recipe import DataStage, LocalizerStage, PromptStage, RelabelStage, StageSchedule, TrainRecipe


def recipe():
    augment = AugmentConfig(
        short_sides=(64, 96), long_side=160, crop=0.5, crop_short_sides=(96,), crop_sides=(48, 90), min_visible=0.3
    )
    return TrainRecipe(
        data=DataStage(augment=augment, versions=2),
        prompts=PromptStage(epochs=2, batch=4, lr=1e-3, schedule=StageSchedule()),
        relabel=RelabelStage(plot=True),
        localizer=LocalizerStage(epochs=3, batch=4, lr=1e-3, ema=0.9, schedule=StageSchedule(kind="cosine")),
        published={"ap50_novel": 35.1, "apr": 28.1},
    )
"""
#: Ends the process at once in the middle of the localizer, as a power cut would.
KILLED = """
import os, signal, sys
from cora.apps.cli import main
from cora.training.ema import Ema

count, update = 0, Ema.update
def update_or_die(self, module):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self, module)

Ema.update = update_or_die
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.py"
    path.write_text(RECIPE)
    return path


def photos(folder: Path) -> list[str]:
    return ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json")]


def everything(recipe: Path, model: Path, folder: Path, run: Path) -> list[str]:
    """The command for all stages."""
    options = ["--model", str(model), "--split", str(folder / "split.json"), "--run", str(run), "--device", "cpu"]
    return ["train", "all", str(recipe), *photos(folder), *options]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of all stages."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(everything(recipe, tiny_model, boxed_photos, run)) == 0
    return run


def assert_same_model(first: Path, second: Path) -> None:
    expected, found = load_file(first), load_file(second)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_all_stages_leave_what_they_promise(whole: Path, tiny_model: Path, boxed_photos: Path) -> None:
    for stage, epochs in (("prompts", 2), ("localizer", 3)):
        lines = [json.loads(line) for line in (whole / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(epochs))
        assert all("loss" in line for line in lines)
        assert (whole / stage / "last.pt").is_file()
        assert list((whole / stage / "tensorboard").iterdir())
        config = json.loads((whole / stage / "run.json").read_text())
        assert config[f"{stage}.lr"] == 1e-3
    original = json.loads((boxed_photos / "annotations.json").read_text())
    relabelled = json.loads((whole / "relabelled.json").read_text())
    assert [a["bbox"] for a in relabelled["annotations"]] == [a["bbox"] for a in original["annotations"]]
    base_boxes = [a for a in relabelled["annotations"] if "original_category_id" in a]
    assert len(base_boxes) == sum(a["category_id"] < 3 for a in original["annotations"])
    assert json.loads((whole / "agreement.json").read_text())["boxes"] == len(base_boxes)
    assert (whole / "confusion.png").is_file()
    start, prompted, trained = (
        cora.load(path).state_dict()
        for path in (tiny_model, whole / "prompts.safetensors", whole / "model.safetensors")
    )
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], trained[name])}
    assert changed == {"prompt", "localizer", "fast_alignment"}
    assert {name.split(".")[0] for name in start if not torch.equal(start[name], prompted[name])} == {"prompt"}
    assert len(cora.load(whole / "model.safetensors").predict(boxed_photos / "images" / "0.png", ["box"], score=0))


def test_shards_train_the_same_model_as_the_folder_they_were_made_of(
    whole: Path, tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path
) -> None:
    dataset = CocoDataset(annotations=boxed_photos / "annotations.json", images=boxed_photos / "images")
    write_shards(dataset, folder=tmp_path / "shards", max_bytes=4_000, seed=None)
    command = everything(recipe, tiny_model, boxed_photos, tmp_path / "run")
    place = command.index("--images")
    assert main([*command[:place], "--images", str(tmp_path / "shards"), *command[place + 4 :]]) == 0
    assert_same_model(whole / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_shards_are_read_one_after_the_other(tiny_model: Path, boxed_photos: Path, tmp_path: Path) -> None:
    assert main(["shards", *photos(boxed_photos), "--output", str(tmp_path / "shards")]) == 0
    blocks: list[object] = []

    class Spy(EpochLoader[object]):
        def __init__(self, **options: Any) -> None:
            blocks.append(options["blocks"])
            super().__init__(**options)

    train = ["train", "prompts", "--images", str(tmp_path / "shards"), "--run", str(tmp_path / "run")]
    small = ["--epochs", "1", "--batch", "5", "--set", "data.versions=0", "--model", str(tiny_model)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cora.training.pipeline.EpochLoader", Spy)
        assert main([*train, *small, "--device", "cpu"]) == 0
    assert blocks == [(10,)]
    assert (tmp_path / "run" / "prompts.safetensors").is_file()


def test_the_same_command_again_changes_nothing(
    whole: Path, tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before.safetensors"
    shutil.copy(whole / "model.safetensors", before)
    assert main(everything(recipe, tiny_model, boxed_photos, whole)) == 0
    assert_same_model(before, whole / "model.safetensors")


def test_a_localizer_of_another_prompt_does_not_go_on(
    tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*everything(recipe, tiny_model, boxed_photos, tmp_path / "run"), "--set", "relabel=None"]
    assert main(command) == 0
    assert main([*command, "--set", "prompts.epochs=3"]) == 2
    assert re.search(r"localizer is a run of another configuration: model was \w+, now", capsys.readouterr().err)


def test_a_killed_run_goes_on_to_the_same_result(
    whole: Path, tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path
) -> None:
    command = everything(recipe, tiny_model, boxed_photos, tmp_path / "run")
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert main(command) == 0
    assert_same_model(whole / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_result(
    whole: Path,
    tiny_model: Path,
    boxed_photos: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, update, steps = everything(recipe, tiny_model, boxed_photos, tmp_path / "run"), Ema.update, []

    def interrupting(self: Ema, module: torch.nn.Module) -> None:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", interrupting)
        assert main(command) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"cora: interrupted at step [34] of localizer, which is saved; the same command goes on", said)
    assert main(command) == 0
    assert_same_model(whole / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_stages_one_by_one(
    tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, labels = tmp_path / "run", tmp_path / "labels.json"
    start = ["--model", str(tiny_model)]
    shared = ["--split", str(boxed_photos / "split.json"), "--device", "cpu"]
    held_out = [
        "--val-images",
        str(boxed_photos / "images"),
        "--val-annotations",
        str(boxed_photos / "annotations.json"),
    ]
    small = ["--run", str(run), "--epochs", "1", "--batch", "5", "--lr", "0.001", "--set", "data.versions=1"]
    every = ["--epochs", "3", "--every", "2"]
    assert main(["train", "prompts", *photos(boxed_photos), *start, *shared, *held_out, *small, *every]) == 0
    assert "accuracy_novel" in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "prompts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "evaluation" in line] == [1, 2]
    assert (run / "prompts" / "best.pt").is_file()
    plots = ["--plot", str(tmp_path / "confusion.png"), "--json", str(tmp_path / "agreement.json")]
    prompted = ["--model", str(run / "prompts.safetensors")]
    assert main(["relabel", *photos(boxed_photos), *prompted, *shared, *plots, "--output", str(labels)]) == 0
    agreement = json.loads((tmp_path / "agreement.json").read_text())
    assert f"of {agreement['boxes']} boxes keep their class" in capsys.readouterr().out
    assert (tmp_path / "confusion.png").is_file()
    images = ["--images", str(boxed_photos / "images"), "--annotations", str(labels)]
    assert main(["train", "localizer", str(recipe), *images, *shared, *held_out, *small]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ap50_novel: 35\.1 % published, \d+\.\d % here$", out, re.MULTILINE)
    assert "apr: 28.1 % published, not measured here" in out
    lines = (run / "localizer" / "metrics.jsonl").read_text().splitlines()
    assert "ap50_all" in json.loads(lines[-1])["evaluation"]
    assert (run / "localizer" / "best.pt").is_file()
    # The localizer started from the prompt that the run had trained.
    prompt, final = load_file(run / "prompts.safetensors"), load_file(run / "model.safetensors")
    assert torch.equal(prompt["prompt.offset"].half(), final["prompt.offset"])


def test_two_processes_train_one_model(tiny_model: Path, boxed_photos: Path, recipe: Path, tmp_path: Path) -> None:
    command = everything(recipe, tiny_model, boxed_photos, tmp_path / "run")
    options = ["--processes", "2", "--set", "prompts.batch=2", "--set", "localizer.batch=2"]
    done = subprocess.run(
        [sys.executable, "-m", "cora", *command, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote ") == 2
    assert (tmp_path / "run" / "model.safetensors").is_file()
