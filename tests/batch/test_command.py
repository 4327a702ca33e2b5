"""`cora batch` through the command line, with a stand-in for the network."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cora.apps import open_model
from cora.apps.cli import main
from cora.detector import PostprocessConfig
from cora.errors import ModelError
from tests.batch.fake import NAMES, FakeModel, files, write_pictures

CLASSES = ("--classes", "cat, dog")


@dataclass(frozen=True)
class Config:
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    class_names: tuple[str, ...] = ()


class Encoder:
    templates = "plain"


class CommandModel(FakeModel):
    vocabulary_encoder, config = Encoder(), Config()

    own_names: tuple[str, ...] = ()

    def score_of(self, asked: float | None, *, built_in: bool) -> float:
        own = self.config.postprocess
        usual = own.builtin_threshold if built_in else own.score_threshold
        return usual if asked is None else asked

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.ones(2)}


@pytest.fixture(autouse=True)
def _inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_detector(model: str, device: str, *, text_model: str | None) -> CommandModel:
        if model != "nano":
            raise ModelError(f"unknown model {model!r}")
        return CommandModel()

    monkeypatch.setattr(open_model, "open_detector", open_detector)
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "in", 9)


@pytest.mark.integration
def test_the_command_of_the_issue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "in", *CLASSES, "--output", "parquet"]) == 0
    out, err = capsys.readouterr()
    assert "boxes in 9 images: " in out
    assert "Written: cora-batch/images.parquet, cora-batch/boxes.parquet." in out
    assert f"File names are relative to {Path.cwd() / 'in'}." in out
    assert err == ""


def test_without_classes_the_built_in_vocabulary_is_said_and_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "in"]) == 0
    first = "Built-in vocabulary: 3 class names, score threshold 0.1, one name for each object (--classes"
    assert capsys.readouterr().out.startswith(first)
    names = [category["name"] for category in json.loads(Path("cora-batch/annotations.json").read_text())["categories"]]
    assert names == list(NAMES)
    assert main(["batch", "in", "--score", "0.4"]) == 0
    assert "9 of 9 images were done by an earlier run" in " ".join(capsys.readouterr().out.split())
    # The same names by the caller's choice are no built-in vocabulary, so these boxes are others.
    assert main(["batch", "in", "--classes", ", ".join(NAMES)]) == 2
    assert "vocabulary" in capsys.readouterr().err


def test_margin_without_classes_has_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "in", "--margin", "0.1"]) == 2
    assert "--margin: expected --classes, got the built-in vocabulary" in capsys.readouterr().err
    assert not Path("cora-batch").exists()


def test_again_with_other_thresholds_and_an_unreadable_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.jpg").write_text("none")
    options = ["--keep", "0.05", "--output", "yolo", "--to", "out"]
    assert main(["batch", "in", *CLASSES, *options]) == 1
    out, err = capsys.readouterr()
    assert "earlier run" not in out
    assert "cora: error: expected an image" in err
    assert "cora: warning: 1 of 10 images could not be read; out/unreadable.csv has them all" in err
    assert Path("out/images/001.png").is_symlink()
    before = files(Path("out"))
    assert main(["batch", "in", *CLASSES, *options, "--thresholds", "cat=0.05", "--score", "1"]) == 1
    assert "10 of 10 images were done by an earlier run." in capsys.readouterr().out
    changed = {Path(name).suffix for name, content in files(Path("out")).items() if before[name] != content}
    assert changed == {".txt"}
    assert main(["batch", "in", *CLASSES, *options[2:], "--score", "0.01"]) == 2
    assert "which is what this batch keeps, got 0.01" in capsys.readouterr().err


def test_review_and_its_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--review", "0.2,0.5", "--margin", "0.1", "--review-format", "json", "--review-sheet"]
    assert main(["batch", "in", *CLASSES, "--to", "out", *options]) == 0
    listed = json.loads(Path("out/review/boxes.json").read_text())
    assert f"{len(listed)} boxes are on the review list." in capsys.readouterr().out
    assert Path("out/review/sheet.jpg").is_file()


def test_exemplars_are_classes_and_bind_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    exemplar = ["--exemplar", "logo=in/001.png", "--exemplar", "cat=in/002.png"]
    assert main(["batch", "in", *CLASSES, *exemplar, "--to", "out"]) == 0
    categories = json.loads(Path("out/annotations.json").read_text())["categories"]
    assert [category["name"] for category in categories] == ["cat", "dog", "logo"]
    capsys.readouterr()
    assert main(["batch", "in", *CLASSES, *exemplar[:-1], "cat=in/004.png", "--to", "out"]) == 2
    assert "got other exemplars" in capsys.readouterr().err
    assert main(["batch", "in", "--exemplar", "logo=none.png"]) == 2
    assert "got no file at none.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--tiles", "2x2"], "tiles"),
        (["--templates", "imagenet"], "text around names"),
        (["--batch-size", "2"], "batch_size"),
    ],
)
def test_options_that_change_boxes_bind_the_folder(
    capsys: pytest.CaptureFixture[str], options: list[str], name: str
) -> None:
    assert main(["batch", "in", *CLASSES]) == 0
    assert main(["batch", "in", *CLASSES, *options]) == 2
    assert f"got {'other' if name == 'tiles' else 'another'} {name} (" in capsys.readouterr().err


def test_nothing_found_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "in", *CLASSES, "--score", "1"]) == 0
    assert "0 boxes in 9 images.\nNo box has a score of 1 or more" in capsys.readouterr().out


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FakeModel, "predict", interrupt)
        assert main(["batch", "in", *CLASSES]) == 130
    assert "what is done is kept, the same command goes on" in capsys.readouterr().err
    assert main(["batch", "in", *CLASSES]) == 0


def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("cora.console.error_console", lambda: Console(file=screen, force_terminal=True, width=80))
    assert main(["batch", "in", *CLASSES]) == 0
    assert "detecting" in screen.getvalue()
    assert "9/9" in screen.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "got nothing at none"),
        (["@none.txt"], "No such file or directory: none.txt"),
        (["in", "--to", "in/001.png"], "expected a folder to write to, got a file"),
        (["in", "--to", "in"], "got in, which is read"),
        (["in/001.png", "--to", "in"], "or that of an earlier batch"),
        (["in", "--output", "xml"], "expected a format of labels, parquet, coco, yolo, voc, got 'xml'"),
        (["in", "--thresholds", "cow=0.3"], "got 'cow'"),
        (["in", "--thresholds", "cat"], "cannot read cat"),
        (["in", "--keep", "0.9"], "expected to keep scores of 0.3 or more"),
        (["in", "--review", "0.5"], "--review: expected two scores"),
        (["in", "--review", "0.5,0.1"], "LOW < HIGH"),
        (["in", "--review-sheet"], "--review-sheet: expected a review list, got none; add --review or --margin"),
        (["in", "--review-format", "json"], "--review-format: expected a review list, got none"),
        (["in", "--model", "giant"], "unknown model 'giant'"),
        (["in", "--processes", "0"], "expected a whole number of 1 or more"),
        (["in", "--classes", "cat, Cat"], "twice"),
        (["in", "--tile-overlap", "0.3"], "expected --tiles or --tile-size"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = files(Path())
    classes = [] if "--classes" in arguments else CLASSES
    try:
        code: object = main(["batch", *arguments, *classes])
    except SystemExit as ending:
        code = ending.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("cora: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert files(Path()) == before
    assert not Path("cora-batch").exists()


def test_without_images_the_built_in_vocabulary_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["batch", "empty"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cora: error: expected images (jpg, png, webp, ...) or shards (.tar), got none")


def test_without_a_score_the_models_own_threshold_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boxes(folder: str, *options: str) -> int:
        assert main(["batch", "in", *CLASSES, "--keep", "0.05", "--to", folder, *options]) == 0
        return len(json.loads((Path(folder) / "annotations.json").read_text())["annotations"])

    usual, named = boxes("usual"), boxes("named", "--score", "0.3")
    assert usual == named > 0
    strict = Config(PostprocessConfig(score_threshold=0.7, distractors="everyday"))
    monkeypatch.setattr(CommandModel, "config", strict)
    capsys.readouterr()
    few = boxes("strict")
    assert 0 < few < usual
    assert capsys.readouterr().out.count("everyday names compete with yours") == 1
    assert boxes("strict", "--score", "0.3") == usual
    assert boxes("strict", "--thresholds", "cat=0.3") >= few


def test_what_a_folder_passes_over_is_told(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/._a.jpg").write_bytes(b"\0\5\26\7")
    Path("in/IMG_1.HEIC").write_bytes(b"....ftypheic")
    assert main(["batch", "in", *CLASSES, "--output", "coco"]) == 1
    assert "in 9 images" in capsys.readouterr().out
    assert "skipped 1 hidden file (first: ._a.jpg)" in caplog.text
