"""Bad input of the training commands: one line, exit code 2, nothing written."""

import json
from pathlib import Path

import pytest

from cora.apps.cli import main

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, boxed_photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files that are wrong in some way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("numbers = 3\n")
    (tmp_path / "broken.py").write_text("def recipe():\n    return 1 / 0\n")
    (tmp_path / "wrong.py").write_text("def recipe():\n    return {'epochs': 3}\n")
    (tmp_path / "prompts_only.py").write_text(
        "from cora.training.recipe import TrainRecipe\n\ndef recipe():\n    return TrainRecipe(localizer=None)\n"
    )
    (tmp_path / "file").write_text("in the way")
    content = json.loads((boxed_photos / "annotations.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps(content | {"annotations": []}))
    content["annotations"][0]["bbox"] = [500, 500, 20, 20]
    (tmp_path / "outside.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"base": ["unicorn"], "novel": []}))
    return tmp_path


TRAIN = ["train", "all", "--run", "run"]
CASES = [
    ([*TRAIN, "missing.py"], "expected a recipe file, got no file at missing.py"),
    ([*TRAIN, "empty.py"], "expected a function recipe()"),
    ([*TRAIN, "broken.py"], "got ZeroDivisionError: division by zero"),
    ([*TRAIN, "wrong.py"], "returns a TrainRecipe, got dict"),
    ([*TRAIN, "--set", "localizer.epoch=3"], "unknown key 'epoch'; expected one of epochs, batch"),
    ([*TRAIN, "--set", "localizer.epochs=many"], "expected int, got 'many'"),
    ([*TRAIN, "--set", "localizer.epochs=0"], "expected epochs of at least 1, got 0"),
    ([*TRAIN, "--set", "localizer.task.class_dropout=2"], "class_dropout: expected 0..1, got 2"),
    ([*TRAIN, "--split", "split.json"], "lacks 1 of the 1 classes asked for: unicorn"),
    ([*TRAIN, "--val-images", "images"], "--val-images and --val-annotations together"),
    ([*TRAIN, "--model", "giant"], "unknown model 'giant'"),
    ([*TRAIN, "--device", "gpu7"], "expected a device of this machine, got 'gpu7'"),
    (["train", "all", "--run", "file"], "expected a folder to write to, got a file: file"),
    (["train", "localizer", "prompts_only.py", "--run", "run"], "expected a recipe with the stage localizer"),
    (["finetune", "--novel", "purple square"], "got 1 unknown: purple square"),
    (["finetune", "--novel", "red square, green square, blue square"], "got all 3 as novel"),
    (["finetune", "--output", "model.pt"], "expected an output file *.safetensors, got model.pt"),
    (["finetune", "--remember-images", "images"], "--remember-images and --remember-annotations together"),
    (["relabel", "--output", "run/labels.json", "--split", "nowhere.json"], "no class split at nowhere.json"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[message[:40] for _, message in CASES])
def test_one_line_and_nothing_written(
    arguments: list[str],
    message: str,
    folder: Path,
    tiny_model: Path,
    boxed_photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    model = [] if "--model" in arguments else ["--model", str(tiny_model)]
    check(folder, [*arguments, *photos, *model], message, capsys)


@pytest.mark.parametrize("command", [TRAIN, ["finetune"], ["relabel", "--output", "run/labels.json"]])
@pytest.mark.parametrize(
    ("annotations", "message"),
    [("none.json", "none.json"), ("outside.json", "1 box outside its image"), ("missing.json", "missing.json")],
)
def test_bad_annotations(
    command: list[str],
    annotations: str,
    message: str,
    folder: Path,
    tiny_model: Path,
    boxed_photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", annotations]
    check(folder, [*command, *photos, "--model", str(tiny_model)], message, capsys)


@pytest.mark.parametrize("option", [["--epochs", "0"], ["--batch", "x"], ["--lr", "-1"], ["--precision", "8"]])
def test_bad_numbers(option: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        main(["train", "prompts", "--images", "images", "--run", "run", *option])
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def check(folder: Path, command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cora: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_run_folder_of_another_configuration(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    start = ["train", "prompts", *photos, "--model", str(tiny_model), "--run", str(tmp_path / "run"), "--device", "cpu"]
    small = ["--epochs", "1", "--set", "data.versions=1"]
    assert main([*start, *small]) == 0
    before = (tmp_path / "run" / "prompts.safetensors").read_bytes()
    assert main([*start, *small, "--lr", "0.5"]) == 2
    assert "prompts.lr was 0.002, now 0.5; use another run folder" in capsys.readouterr().err
    assert (tmp_path / "run" / "prompts.safetensors").read_bytes() == before
