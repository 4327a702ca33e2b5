"""What cannot work is refused before a model is loaded: missing packages, and options that would have no effect."""

import sys
from pathlib import Path

import pytest

import cora
from cora.apps.cli import main
from cora.apps.serve import ServeOptions, load
from cora.apps.study import FitOptions
from cora.errors import CoraError, ModelError
from cora.training import text_training
from cora.training.loop import TrainResult
from tests.detector.conftest import tiny_detector
from tests.toy_nano import write_boxed_photos

QUANTIZE = ("quantize", "--backend", "onnxruntime", "--mode", "dynamic", "--output", "int8.onnx", "--images", "photos")
SEARCH_ARCH = ("search-arch", "--model", "nano", "--images", "photos", "--budget", "9", "--run", "run")
TEXT = ("text-prompts", "--method", "offsets", "--images", "photos", "--annotations", "boxes.json")
PRUNE = ("prune", "--model", "nano", "--images", "photos", "--ffn", "0.5", "--output", "small.safetensors")


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(cora), "load", lambda name: pytest.fail("a model was loaded"))


def refused(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (("evaluate", "--images", "photos", "--annotations", "boxes.json"), "hotcoco", "evaluate"),
        (QUANTIZE, "hotcoco", "evaluate"),
        (SEARCH_ARCH, "optuna", "search-arch"),
        ((*SEARCH_ARCH, "--proxy-epochs", "1"), "tensorboard", "train"),
    ],
)
def test_a_missing_package_is_named_at_once(
    command: tuple[str, ...],
    package: str,
    extra: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'cora-ovd[{extra}]'" in refused(command, capsys)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((*PRUNE, "--split", "coco"), "expected --val-images and --val-annotations with --split, got none"),
        ((*PRUNE, "--limit", "5"), "expected --val-images and --val-annotations with --limit, got none"),
        (
            ("train", "prompts", "--images", "photos", "--annotations", "boxes.json", "--run", "run", "--every", "2"),
            "expected --val-images and --val-annotations with --every, got none",
        ),
        (
            ("finetune", "--images", "photos", "--annotations", "boxes.json", "--remember-split", "coco"),
            "expected --remember-images and --remember-annotations with --remember-split, got none",
        ),
        (
            (*TEXT, "--output", "text.safetensors", "--save-model", "model.pth"),
            "expected an output file *.safetensors, got model.pth",
        ),
    ],
)
def test_options_without_effect_are_refused(
    command: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(command, capsys)


def test_a_service_with_an_index_has_no_text_model(tmp_path: Path) -> None:
    with pytest.raises(CoraError, match="--text-model RN50: expected it without --db"):
        load(ServeOptions(db=tmp_path, text_model="RN50"))


def test_a_study_asks_no_detector_without_a_trained_localizer() -> None:
    with pytest.raises(ModelError, match="RN50"):
        FitOptions(detector="RN50-quickgelu", device="cpu").open_detector()


@pytest.mark.parametrize(
    ("options", "hint"),
    [((), "name a --run folder to go on another time"), (("--run", "run"), "the same command goes on from run")],
)
def test_text_prompts_say_how_to_go_on(
    options: tuple[str, ...],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = write_boxed_photos(tmp_path / "photos")
    detector = tiny_detector(tmp_path / "cache")
    monkeypatch.setitem(vars(cora), "load", lambda name: cora.Predictor(detector))
    stopped = TrainResult(steps=3, epochs=1, interrupted=True)
    monkeypatch.setattr(text_training, "train_text", lambda *_, **__: stopped)
    data = ("--images", str(photos), "--annotations", str(photos / "boxes.json"))
    command = ("text-prompts", "--method", "offsets", *data, "--output", "text.safetensors", "--device", "cpu")
    assert main([*command, *options]) == 130
    assert f"cora: interrupted at step 3, nothing written; {hint}\n" in capsys.readouterr().err
    assert not Path("text.safetensors").exists()
