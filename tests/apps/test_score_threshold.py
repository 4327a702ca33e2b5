"""The score threshold and the distractors of the model file: what commands take where the user says nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.detector import Detector, PostprocessConfig, load_checkpoint, presets, read_checkpoint
from cora.detector.checkpoint import read_config
from cora.export import load_exported
from cora.predictor import Predictor
from cora.regions import EVERYDAY_NAMES
from tests.apps.conftest import FakeDetector
from tests.export.conftest import picture, toy_config, toy_detector

SCORES_PAGE = Path(__file__).resolve().parents[2] / "docs" / "scores.md"
CLASSES = ("--classes", "cat, remote control")
#: One size and one image: that is exported fastest.
SMALL = ("--size", "160x224", "--batch", "1")
STRICT = PostprocessConfig(score_threshold=0.85, distractors="everyday")


@pytest.fixture
def sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy whose scores reach far above the noise, saved as `toy.safetensors` in the current folder."""
    monkeypatch.chdir(tmp_path)
    detector = toy_detector(tmp_path / "cache", toy_config())
    with torch.no_grad():
        detector.localizer.objectness_head.bias.fill_(2.0)
    detector.save("toy.safetensors")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        picture(160, 224, number).save(f"photos/{number}.png")
    return tmp_path


def with_postprocess(file: str, **values: object) -> Detector:
    """Change what a model file says, and give the model of it."""
    detector = load_checkpoint(file)
    detector.config = replace(detector.config, postprocess=replace(detector.config.postprocess, **values))  # type: ignore[arg-type]
    detector.save(file)
    return load_checkpoint(file)


def stored(file: str) -> PostprocessConfig:
    return read_checkpoint(file)[0].postprocess


def annotate(file: str, names: str, score: float) -> Path:
    """The model's own boxes above a score as annotations: nothing is better than that score."""
    options = ["--model", file, "--distractors", "none", "--score", str(score)]
    assert main(["detect", "photos", "--classes", names, *options, "--json", "boxes.json"]) == 0
    content = json.loads(Path("boxes.json").read_text())
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    Path("boxes.json").write_text(json.dumps(content))
    assert content["annotations"]
    return Path("boxes.json")


@pytest.mark.parametrize("name", presets.EMBEDDED)
def test_the_page_says_what_embedded_models_do(name: str) -> None:
    with presets.embedded_file(name) as file:
        postprocess = read_config(file)[0].postprocess
    said = f"{postprocess.score_threshold:g}", postprocess.distractors
    rows = [line.strip("| ").split(" | ") for line in SCORES_PAGE.read_text(encoding="utf-8").splitlines()]
    (row,) = [row for row in rows if row[0] == f"`{name}`"]
    assert (row[1], row[2]) == said


@pytest.mark.usefixtures("loaded", "folder")
class TestDetect:
    def test_takes_what_the_model_says(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(FakeDetector, "postprocess", STRICT)
        assert main(["detect", "photos", *CLASSES]) == 0
        out = capsys.readouterr().out
        line = (
            f"{len(EVERYDAY_NAMES) - 2} everyday names compete with yours and are not reported "
            "(--distractors none switches them off)"
        )
        assert out.count(line) == 1
        assert "with a score of 0.85 or more" in out
        assert main(["detect", "photos", *CLASSES, "--score", "0.7"]) == 0
        assert "1 object in 2 images" in capsys.readouterr().out

    @pytest.mark.parametrize("asked", ["none", "tree, car"])
    def test_says_nothing_of_what_was_asked_for(
        self, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(FakeDetector, "postprocess", STRICT)
        assert main(["detect", "photos", *CLASSES, "--distractors", asked]) == 0
        assert "compete" not in capsys.readouterr().out


class TestFiles:
    def test_old_ones_have_todays(self, sure: Path) -> None:
        with safe_open("toy.safetensors", framework="pt") as content:
            said = json.loads(content.metadata()["config"])["postprocess"]
        assert "score_threshold" not in said  # today's is not written, so that older versions read the file, too
        assert stored("toy.safetensors").score_threshold == 0.3
        assert with_postprocess("toy.safetensors", score_threshold=0.47).config.postprocess.score_threshold == 0.47

    def test_predict_takes_the_models_own(self, sure: Path) -> None:
        photo = Image.open("photos/0.png")
        every = Predictor(load_checkpoint("toy.safetensors")).predict(photo, ["cat", "dog"], score=0.0)
        middle = float(every.scores.median())
        strict = with_postprocess("toy.safetensors", score_threshold=middle)
        call = Predictor(strict).predict
        for found in (call(photo, ["cat", "dog"]), call(photo, ["cat", "dog"], score=None)):
            assert 0 < len(found) < len(every)
            assert float(found.scores.min()) > middle

    @pytest.mark.parametrize("wrong", [-0.1, 1.1])
    def test_impossible_thresholds_are_refused(self, wrong: float) -> None:
        with pytest.raises(ValueError, match=r"score_threshold: expected 0\.\.1"):
            PostprocessConfig(score_threshold=wrong)


@pytest.mark.integration
class TestExports:
    @pytest.fixture
    def file(self, sure: Path) -> str:
        detector = load_checkpoint("toy.safetensors")
        scores = Predictor(detector).predict(Image.open("photos/0.png"), ["cat", "dog"], score=0.0).scores
        with_postprocess("toy.safetensors", score_threshold=round(float(scores.median()), 3), distractors="everyday")
        return "toy.safetensors"

    def test_carry_threshold_and_distractors(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        export = ["export", "--format", "onnx", "--model", file, "--output", "free.onnx", *SMALL]
        assert main(export) == 0
        original, exported = load_checkpoint(file), load_exported("free.onnx", load_text_model=cora.load)
        postprocess = exported.config.postprocess
        assert postprocess == original.config.postprocess
        photo = Image.open("photos/0.png")
        found, expected = exported.predict(photo, ["cat", "dog"]), Predictor(original).predict(photo, ["cat", "dog"])
        assert len(found) == len(expected)
        capsys.readouterr()
        assert main(["detect", "photos/0.png", "--classes", "cat, dog", "--model", "free.onnx"]) == 0
        assert "everyday names compete with yours" in capsys.readouterr().out

    def test_of_fixed_names_say_what_is_in_them(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        export = ["export", "--format", "onnx", "--model", file, "--output", "fixed.onnx", *SMALL]
        assert main([*export, "--classes", "cat, dog"]) == 0
        assert "(--distractors none switches them off)" in capsys.readouterr().out
        assert main(["detect", "photos/0.png", "--model", "fixed.onnx"]) == 0
        out = capsys.readouterr().out
        assert "other names compete with yours and are not reported (they are part of the file" in out


class TestCalibrate:
    def command(self, annotations: Path, *more: str) -> list[str]:
        photos = ["--images", "photos", "--annotations", str(annotations), "--device", "cpu"]
        return ["calibrate", "--model", "toy.safetensors", *photos, "--output", "own.safetensors", *more]

    def test_stores_the_better_one(self, sure: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with_postprocess("toy.safetensors", distractors="everyday")
        annotations = annotate("toy.safetensors", "cat, dog", 0.4)
        before = load_file("toy.safetensors")
        capsys.readouterr()
        assert main(self.command(annotations, "--json", "report.json")) == 0
        out = capsys.readouterr().out
        for part in ("score threshold", "none", "everyday", "on 3 images; distractors: none", "own.safetensors"):
            assert part in out
        report = json.loads(Path("report.json").read_text())
        best = report["measured"]["none"]
        found = stored("own.safetensors")
        assert (found.distractors, found.score_threshold) == ("none", best["threshold"])
        assert report["stored"] == {"distractors": "none", "score_threshold": best["threshold"]}
        assert best["f1"] > 0.8
        assert found.score_threshold == pytest.approx(0.4, abs=0.1)
        assert stored("toy.safetensors").distractors == "everyday"
        after = load_file("own.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        # What it says is what `cora detect` then does without any option.
        assert main(["detect", "photos", "--classes", "cat, dog", "--model", "own.safetensors"]) == 0
        assert "compete" not in capsys.readouterr().out

    def test_full_precision_stays(self, sure: Path) -> None:
        detector = load_checkpoint("toy.safetensors")
        with torch.no_grad():
            detector.localizer.objectness_head.bias.add_(1e-6)
        detector.save("toy.safetensors", dtype=torch.float32)
        assert main(self.command(annotate("toy.safetensors", "cat, dog", 0.4))) == 0
        before, after = load_file("toy.safetensors"), load_file("own.safetensors")
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    def test_names_may_take_turns(self, sure: Path) -> None:
        annotations = annotate("toy.safetensors", "cat, dog, house", 0.3)
        assert main(self.command(annotations, "--at-once", "2", "--json", "turns.json")) == 0
        assert main(self.command(annotations, "--json", "all.json")) == 0
        turns, whole = (json.loads(Path(name).read_text()) for name in ("turns.json", "all.json"))
        assert turns["at_once"] == 2
        assert turns["measured"] != whole["measured"]
        assert main(self.command(annotations, "--at-once", "3", "--json", "three.json")) == 0
        assert json.loads(Path("three.json").read_text())["measured"]["none"] == whole["measured"]["none"]

    def test_a_model_that_is_never_right_is_told_so(self, sure: Path, capsys: pytest.CaptureFixture[str]) -> None:
        annotations = annotate("toy.safetensors", "cat, dog", 0.4)
        content = json.loads(annotations.read_text())
        for one in content["annotations"]:
            one["bbox"] = [0, 0, 1, 1]
        annotations.write_text(json.dumps(content))
        assert main(self.command(annotations)) == 2
        err = capsys.readouterr().err
        assert "expected a model that gets a box right in 3 images" in err
        assert "cora finetune" in err
        assert err.count("\n") == 1
        assert not Path("own.safetensors").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"--output": "own.pth"}, "expected an output file *.safetensors, got own.pth"),
            ({"--annotations": "none.json"}, "none.json"),
            ({"--model": "none.safetensors"}, "none.safetensors: expected an existing file"),
            ({"--model": "toy.onnx"}, "cora calibrate: expected a model by name or a checkpoint"),
            ({"--at-once": "0"}, "expected a whole number of 1 or more"),
            ({"--annotations": "empty.json"}, "expected boxes to measure on, got none in 3 images"),
        ],
    )
    def test_bad_input_is_one_line(
        self, sure: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
    ) -> None:
        annotations = annotate("toy.safetensors", "cat, dog", 0.4)
        content = json.loads(annotations.read_text())
        Path("empty.json").write_text(json.dumps({**content, "annotations": []}))
        capsys.readouterr()
        command = self.command(annotations)
        for option, value in change.items():
            if option in command:
                command[command.index(option) + 1] = value
            else:
                command += [option, value]
        try:
            code = main(command)
        except SystemExit as ending:
            code = ending.code  # type: ignore[assignment]
        assert code == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not Path("own.safetensors").exists()
