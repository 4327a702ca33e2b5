"""`cora text-prompts`, `--templates` and `--descriptions` from the command line, with a tiny random model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cora
from cora.apps import cli
from cora.detector import Detector
from cora.detector.text_artefact import TextArtefact
from tests.detector.conftest import tiny_detector


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_detector(tmp_path / "cache").save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Four images of coloured squares: base classes are told by their colour, the novel one is only measured."""
    colours = {"cat": (250, 30, 30), "dog": (30, 250, 30), "bus": (30, 30, 250)}
    annotations, images = [], []
    for number in range(4):
        pixels = np.full((64, 96, 3), 128, dtype=np.uint8)
        for place, (name, colour) in enumerate(colours.items()):
            pixels[16:48, 32 * place : 32 * place + 30] = colour
            box = [32 * place, 16, 30, 32]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": list(colours).index(name), "bbox": box}
            )
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
    categories = [{"id": number, "name": name} for number, name in enumerate(colours)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text('{"base": ["cat", "dog"], "novel": ["bus"]}')
    return ["--images", str(tmp_path), "--annotations", str(tmp_path / "boxes.json")]


def run(*arguments: str) -> int:
    return cli.main(["text-prompts", "--device", "cpu", *arguments])


@pytest.mark.parametrize("method", ["context", "offsets", "tower"])
def test_learns_measures_and_writes(
    tmp_path: Path, model: Path, data: list[str], capsys: pytest.CaptureFixture[str], method: str
) -> None:
    output, whole = tmp_path / "text.safetensors", tmp_path / "whole.safetensors"
    options = ["--method", method, "--model", str(model), "--output", str(output), "--save-model", str(whole)]
    options += ["--split", str(tmp_path / "split.json"), "--cache", str(tmp_path / "kept"), "--epochs", "4"]
    options += ["--val-images", str(tmp_path), "--val-annotations", str(tmp_path / "boxes.json"), "--resamples", "5"]
    assert run(*data, *options, "--lr", "0.05", "--keep", "0.1") == 0
    out = capsys.readouterr().out
    assert f"{method}: boxes named right among 3 classes, %" in out
    assert [line.split()[1] for line in out.splitlines() if "novel" in line or " base " in line]
    assert "Learned from 8 boxes of 2 classes" in out
    names = ["cat", "dog", "bus", "never seen"]
    detector = cora.load(model)
    plain = detector.vocabulary_encoder.encode(names).embeddings
    TextArtefact.read(output).apply(detector)
    learned = detector.vocabulary_encoder.encode(names).embeddings
    assert not torch.allclose(learned, plain, atol=1e-4)
    assert torch.equal(cora.load(whole).vocabulary_encoder.encode(names).embeddings, learned)
    assert sorted(entry.name for entry in (tmp_path / "kept").iterdir()) == [
        "regions_train.safetensors",
        "regions_val.safetensors",
    ]


def test_without_split_and_measuring(
    tmp_path: Path, model: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    options = ["--method", "offsets", "--model", str(model), "--output", str(tmp_path / "o.safetensors")]
    assert run(*data, *options, "--run", str(folder), "--epochs", "2", "--seed", "20261130184300") == 0
    assert "Learned from 12 boxes of 3 classes" in capsys.readouterr().out
    assert (folder / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("method", "first", "second", "difference"),
    [
        ("context", ["--context", "a"], ["--context", "a nice"], "context was a, now a nice"),
        ("context", [], ["--context", "a"], "context was None, now a"),
    ],
)
def test_a_run_does_not_go_on_from_another_start(
    tmp_path: Path,
    model: Path,
    data: list[str],
    capsys: pytest.CaptureFixture[str],
    method: str,
    first: list[str],
    second: list[str],
    difference: str,
) -> None:
    options = ["--method", method, "--model", str(model), "--output", str(tmp_path / "o.safetensors")]
    options += ["--run", str(tmp_path / "run"), "--epochs", "1"]
    assert run(*data, *options, *first) == 0
    (tmp_path / "o.safetensors").unlink()
    assert run(*data, *options, *first) == 0
    capsys.readouterr()
    assert run(*data, *options, *second) == 2
    assert difference in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-images", "."], "expected --val-images and --val-annotations together"),
        (["--split", "none.json"], "no class split at none.json"),
        (["--output", "{folder}"], "expected a file to write to, got a folder"),
        (["--model", "nonsense"], "unknown model 'nonsense'"),
        (["--device", "abacus"], "expected a device of this machine"),
        (["--method", "context", "--context", "a " * 20], r"context 'a a a .*: expected 1 to 13 tokens, got 20"),
        (["--method", "tower", "--layers", "2"], r"layers: expected 0 to 1 blocks of the text tower, got 2"),
        (["--layers", "2"], "--layers: expected with --method tower, got --method offsets"),
        (["--method", "tower", "--context", "a"], "--context: expected with --method context, got --method tower"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    model: Path,
    data: list[str],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "o.safetensors"
    given = ["--method", "offsets", "--model", str(model), "--output", str(output)]
    assert run(*data, *given, *(option.format(folder=tmp_path) for option in options)) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("option", [["--epochs", "0"], ["--lr", "-1"], ["--keep", "x"], ["--method", "magic"]])
def test_bad_options_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--method", "tower", "--images", "a", "--annotations", "b", "--output", "c", *option)
    assert option[0] in capsys.readouterr().err


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Detector:
    detector = tiny_detector(tmp_path / "cache")
    monkeypatch.setitem(vars(cora), "load", lambda name: cora.Predictor(detector))
    return detector


@pytest.mark.parametrize("command", ["evaluate", "region-accuracy"])
def test_measuring_takes_templates_and_descriptions(
    tmp_path: Path, data: list[str], loaded: Detector, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drone.txt").write_text("a drone photo of a {}\n")
    (tmp_path / "words.json").write_text('{"Dog": ["a hound"], "cow": ["cattle"]}')
    report = tmp_path / "report.json"
    options = ["--templates", str(tmp_path / "drone.txt"), "--descriptions", str(tmp_path / "words.json")]
    assert cli.main([command, *data, *options, "--device", "cpu", "--resamples", "2", "--json", str(report)]) == 0
    assert loaded.vocabulary_encoder.templates == ("a drone photo of a {}",)
    assert loaded.vocabulary_encoder.descriptions == {"dog": ("a hound",), "cow": ("cattle",)}
    content = json.loads(report.read_text())
    assert content["templates"] == ["a drone photo of a {}"]
    assert content["descriptions"]["dog"] == ["a hound"]


def test_detecting_takes_templates_and_descriptions(
    tmp_path: Path, data: list[str], loaded: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "words.json").write_text('{"dog": ["a hound"], "cow": ["cattle"]}')
    (tmp_path / "drone.json").write_text('["a drone photo of a {}", "a {} from above"]')
    options = ["--templates", str(tmp_path / "drone.json"), "--descriptions", str(tmp_path / "words.json")]
    command = ["detect", str(tmp_path / "0.png"), "--classes", "cat, dog", "--output", str(tmp_path / "out"), *options]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert loaded.vocabulary_encoder.templates == ("a drone photo of a {}", "a {} from above")
    assert "no class here has the name: cow" in caplog.text


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--templates", "an image", "expected {} exactly once"),
        ("--templates", None, "expected a set of templates (imagenet, plain) or a file of them"),
        ("--descriptions", '{"cow": ["cattle"]}', "expected some of the 2 class names, got cow"),
        ("--descriptions", "[]", "expected names with lists of sentences"),
        ("--descriptions", None, "expected a JSON file of descriptions"),
    ],
)
def test_bad_text_files_are_one_line_before_any_work(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str], option: str, content: str | None, message: str
) -> None:
    file = tmp_path / "given.txt"
    if content is not None:
        file.write_text(content)
    command = ["detect", str(tmp_path / "0.png"), "--classes", "cat, dog", "--output", str(tmp_path / "out")]
    assert cli.main([*command, option, str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
