"""`cora video` through its real command line, with a stand-in for the network."""

import csv
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cora.apps import open_model
from cora.apps.cli import main
from cora.apps.open_model import open_detector
from cora.detector import PostprocessConfig
from cora.predictor.tiling import Tiles
from cora.video import ObjectTracker, VideoError, VideoReader, follow, window
from tests.conftest import ROOT
from tests.video.clips import STEP, make_clip, make_sound, packets, scene
from tests.video.conftest import FakeDetector

CLASSES = ("--classes", "cat, dog")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: FakeDetector) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_everything(folder: Path, loaded: FakeDetector, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_clip(Path("street.mp4"), times=[0, 900, *(STEP * n for n in range(1, 9))], sound="aac")
    command = ["video", "street.mp4", *CLASSES, "--csv", "t/tracks.csv", "--json", "t/tracks.json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "1 track in 10 images." in out
    assert "Written: cora-output/street.mp4, t/tracks.csv, t/tracks.json." in out
    assert err == ""
    assert files(folder) == ["cora-output/street.mp4", "street.mp4", "t/tracks.csv", "t/tracks.json"]
    assert packets(Path("cora-output/street.mp4"), "audio") == packets(source, "audio")
    with VideoReader(source) as before, VideoReader("cora-output/street.mp4") as after:
        originals, drawn = list(before), list(after)
    assert [frame.pts for frame in drawn] == [frame.pts for frame in originals]
    difference = [np.abs(a.pixels.astype(int) - b.pixels).mean() for a, b in zip(originals, drawn, strict=True)]
    assert difference[0] < 4 < min(difference[1:])  # a track starts with its second image
    rows = list(csv.DictReader(Path("t/tracks.csv").read_text().splitlines()))
    assert [row["frame"] for row in rows] == [str(n) for n in range(1, 10)]
    assert {row["class"] for row in rows} == {"cat"}
    assert {row["frame_class"] for row in rows} == {"cat", "dog"}
    content = json.loads(Path("t/tracks.json").read_text())
    assert content["video"]["source"] == "street.mp4"
    assert len(content["frames"]) == 10
    assert content["tracks"][0]["frames"] == 9
    assert content["complete"] is True
    assert loaded.encoded == 1


def test_tables_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("a.mp4"))
    assert main(["video", "a.mp4", *CLASSES, "--no-video", "--csv", "a.csv"]) == 0
    assert files(folder) == ["a.csv", "a.mp4"]
    assert main(["video", "a.mp4", *CLASSES, "--no-video"]) == 0
    assert "Written" not in capsys.readouterr().out.splitlines()[-1]


def test_sound_that_nobody_writes_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(Path("a.mp4"), sound="aac")
    opened: list[VideoReader] = []
    enter = VideoReader.__enter__
    monkeypatch.setattr(VideoReader, "__enter__", lambda self: opened.append(self) or enter(self))
    assert main(["video", "a.mp4", *CLASSES, "--no-video"]) == 0
    assert opened[0].sound is not None
    assert opened[0].take_sound() == []


@pytest.mark.parametrize("options", [[], ["--smooth", "0"], ["--smooth", "1"]])
def test_results_say_whether_boxes_are_smoothed(options: list[str]) -> None:
    make_clip(Path("a.mp4"))
    assert main(["video", "a.mp4", *CLASSES, "--no-video", "--csv", "a.csv", "--json", "a.json", *options]) == 0
    content = json.loads(Path("a.json").read_text())
    smooth = float(options[1]) if options else inspect.signature(ObjectTracker).parameters["smooth"].default
    assert content["smooth"] == smooth
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    objects = [found for frame in content["frames"] for found in frame["objects"]]
    assert len(rows) == len(objects) == 9
    assert all(("frame_bbox" in found) == (smooth > 0) for found in objects)
    assert ("frame_left" in rows[0]) == (smooth > 0)
    if smooth:
        # A square that moves to the right by two pixels a frame: the shown box lags, and never by more than it moves.
        lags = [float(row["frame_left"]) - float(row["left"]) for row in rows]
        assert lags[0] == 0
        assert all(0 < lag < 2 for lag in lags[1:])
        assert [found["frame_bbox"][0] - found["bbox"][0] for found in objects] == pytest.approx(lags, abs=0.02)


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf"])
def test_impossible_smoothing_is_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("a.mp4"))
    with pytest.raises(SystemExit, match="2"):
        main(["video", "a.mp4", *CLASSES, f"--smooth={value}"])
    err = capsys.readouterr().err
    assert "--smooth: expected a number of 0 or more" in err
    assert err.count("\n") == 1


def test_nothing_found(capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("a.mp4"), pictures=[np.zeros((48, 64, 3), np.uint8)] * 10)
    assert main(["video", "a.mp4", *CLASSES, "--score", "0.2"]) == 0
    assert "No track in 10 images with a score of 0.2 or more; try a lower --score." in capsys.readouterr().out
    assert Path("cora-output/a.mp4").is_file()


def test_options_are_passed_on(loaded: FakeDetector, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("a.mp4"), pictures=[scene(0)] * 10, sound="aac")
    options = ["--distractors", "tree, car", "--reuse", "20", "--start", "0.2", "--seconds", "0.6", "--every", "2"]
    assert main(["video", "a.mp4", *CLASSES, *options, "--no-sound", "--output", "b.mkv"]) == 0
    assert "1 track in 3 images (2 like earlier ones)." in capsys.readouterr().out
    assert loaded.asked[0]["distractors"] == ("tree", "car")
    assert loaded.calls == 1
    with VideoReader("b.mkv") as video:
        assert video.sound is None
        assert [round(frame.seconds, 2) for frame in video] == [0, 0.2, 0.4]
    assert main(["video", "a.mp4", *CLASSES, "--distractors", "none", "--no-video"]) == 0
    assert loaded.asked[2]["distractors"] == ()


def test_exemplars_and_tiles_are_passed_on(loaded: FakeDetector) -> None:
    make_clip(Path("a.mp4"))
    Image.fromarray(scene(0)).save("a.png")
    exemplars = ["--exemplar", "square=a.png#10,14,20,20", "--exemplar", "Square=a.png"]
    assert main(["video", "a.mp4", *CLASSES, *exemplars, "--tiles", "1x2", "--no-video"]) == 0
    assert loaded.asked[0]["exemplars"] == {"square": [(Path("a.png"), (10, 14, 30, 34)), Path("a.png")]}
    assert loaded.asked[1]["tiles"] == Tiles(count=(1, 2))


@pytest.mark.slow
def test_exemplars_and_tiles_with_a_real_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "open_detector", open_detector)
    photo = ROOT / "examples" / "cat.jpg"
    view = Image.open(photo).convert("RGB").resize((240, 160))
    make_clip(Path("cat.mp4"), pictures=[np.asarray(view)] * 3, times=[0, STEP, 2 * STEP])
    options = ["--exemplar", f"my cat={photo}", "--tiles", "1x2", "--short-side", "96", "--score", "0.01"]
    assert main(["video", "cat.mp4", *options, "--no-video", "--json", "a.json"]) == 0
    content = json.loads(Path("a.json").read_text())
    assert content["classes"] == ["my cat"]
    assert content["tracks"]
    assert main(["video", "cat.mp4", "--exemplar", "my cat=none.png", "--no-video", "--json", "b.json"]) == 2
    assert not Path("b.json").exists()


def test_sound_that_mp4_cannot_hold_goes_to_mkv(folder: Path) -> None:
    make_clip(Path("a.mkv"), sound="pcm_u8")
    assert main(["video", "a.mkv", *CLASSES]) == 0
    assert files(folder) == ["a.mkv", "cora-output/a.mkv"]


def test_rotated_video_is_written_upright() -> None:
    make_clip(Path("a.mp4"), rotation=90)
    assert main(["video", "a.mp4", *CLASSES]) == 0
    with VideoReader("cora-output/a.mp4") as video:
        assert video.size == (64, 48)


def test_file_that_breaks_off_is_done_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(Path("a.mp4"))
    monkeypatch.setattr(VideoReader, "problems", ("it breaks off after 1.0 of 9.0 s",))
    assert main(["video", "a.mp4", *CLASSES, "--json", "a.json"]) == 1
    out, err = capsys.readouterr()
    assert "1 track in 10 images." in out
    assert err == "cora: warning: a.mp4: it breaks off after 1.0 of 9.0 s\n"
    assert json.loads(Path("a.json").read_text())["complete"] is False


def test_without_classes_the_built_in_vocabulary_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("a.mp4"))
    assert main(["video", "a.mp4", "--no-video", "--json", "a.json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "Built-in vocabulary: 2 class names, score threshold 0.1, one name for each object (--classes"
    )
    content = json.loads(Path("a.json").read_text())
    assert (content["classes"], content["score"]) == (["cup", "dog"], 0.1)


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    good = ["a.mp4", *CLASSES]
    return {
        "no such file": (["none.mp4", *CLASSES], "got no file at none.mp4"),
        "not a video, no classes": (["text.mp4"], "got something that is none, or is damaged: text.mp4"),
        "not a video": (["text.mp4", *CLASSES], "got something that is none, or is damaged: text.mp4"),
        "empty": (["empty.mp4", *CLASSES], "got an empty file; get it again: empty.mp4"),
        "no images in it": (["zero.mkv", *CLASSES], "expected a video with images, got none in it"),
        "sound only": (["sound.flac", *CLASSES], "got a file with sound only: sound.flac"),
        "picture": (["a.png", *CLASSES], "got an image: a.png; use 'cora detect' for images"),
        "folder": ([".", *CLASSES], "got a folder: ."),
        "no camera": (["camera:/dev/video987", *CLASSES], "expected a camera at"),
        "protocol": (["file:///etc/passwd", *CLASSES], "name a file by its path"),
        "start": ([*good, "--start", "9"], "expected a start within the video of 1.0 s, got 9 s"),
        "blank name": (["a.mp4", "--classes", "cat,,dog"], "got a blank one at position 2"),
        "name too long": (["a.mp4", "--classes", "x" * 400], "at most 77 tokens"),
        "no classes": (["a.mp4", "--classes", " "], "got an empty list; leave --classes out for the built-in"),
        "exemplar without a name": (["a.mp4", "--exemplar", "a.png"], "expected NAME=FILE"),
        "overlap of no tiles": ([*good, "--tile-overlap", "0.3"], "expected --tiles or --tile-size beside"),
        "tiles": ([*good, "--tiles", "2"], "expected rows and columns up to 32x32, such as 2x3, got '2'"),
        "no classes, a folder to write to": (["a.mp4", "--output", "text.mp4/b.mp4"], "text.mp4"),
        "kind of file": ([*good, "--output", "b.avi"], "expected the name of a video that ends in .mp4"),
        "output is a folder": ([*good, "--output", "dir.mp4"], "expected a file to write to, got a folder: dir.mp4"),
        "output is the source": ([*good, "--output", "./a.mp4"], "got a.mp4, which is read"),
        "one file twice": ([*good, "--csv", "t", "--json", "t"], "got t twice"),
        "output and none": ([*good, "--output", "b.mp4", "--no-video"], "expected --output or --no-video, got both"),
        "sound does not fit": (["heard.mp4", *CLASSES, "--output", "b.webm"], "choose a name that ends in .mkv"),
        "score": ([*good, "--score", "30"], "expected a number in 0..1, got '30'"),
        "every": ([*good, "--every", "0"], "expected a whole number of 1 or more, got '0'"),
        "reuse": ([*good, "--reuse", "-1"], "expected grey levels in 0..255, got '-1'"),
        "seconds": ([*good, "--seconds", "0"], "expected a number above 0, got '0'"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    folder: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, message = bad_inputs()[case]
    make_clip(Path("a.mp4"))
    make_clip(Path("heard.mp4"), sound="aac")
    make_clip(Path("zero.mkv"), times=[], pictures=[], sound="flac")
    make_sound(Path("sound.flac"))
    Image.fromarray(scene(0)).save("a.png")
    Path("text.mp4").write_text("I am no video. " * 20)
    Path("empty.mp4").touch()
    Path("dir.mp4").mkdir()
    before = files(folder)
    try:
        code: object = main(["video", *arguments])
    except SystemExit as ending:  # argparse's way
        code = ending.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("cora: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert files(folder) == before
    assert not Path("cora-output").exists()


def test_error_on_the_way_leaves_nothing(folder: Path, loaded: FakeDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(Path("a.mp4"))
    predict = FakeDetector.predict

    def fail(self: FakeDetector, *arguments: object, **options: object) -> object:
        if self.calls == 4:
            raise VideoError("expected no accident")
        return predict(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeDetector, "predict", fail)
    assert main(["video", "a.mp4", *CLASSES, "--csv", "a.csv", "--json", "a.json"]) == 2
    assert files(folder) == ["a.mp4"]


def test_window_that_is_closed_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[tuple[int, int]] = []

    class Window:
        def __init__(self, title: str) -> None: ...

        def __enter__(self) -> "Window":
            return self

        def __exit__(self, *details: object) -> None: ...

        def show(self, picture: Image.Image) -> bool:
            shown.append(picture.size)
            return len(shown) < 4

    monkeypatch.setattr(window, "LiveWindow", Window)
    make_clip(Path("a.mp4"))
    assert main(["video", "a.mp4", *CLASSES, "--show", "--json", "a.json"]) == 0
    assert shown == [(64, 48)] * 4
    assert "1 track in 4 images." in capsys.readouterr().out
    assert json.loads(Path("a.json").read_text())["complete"] is False


def test_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(follow, "error_console", lambda: terminal)
    make_clip(Path("a.mp4"))
    assert main(["video", "a.mp4", *CLASSES]) == 0
    assert "of 1.0 s" in screen.getvalue()
    assert "10 images" in screen.getvalue()


_SLOW = """
import sys, time
from cora.apps import open_model
from cora.apps.cli import main
from tests.video.conftest import FakeDetector

class Slow(FakeDetector):
    def predict(self, *arguments, **options):
        open("started", "a").close()
        time.sleep(0.1)
        return super().predict(*arguments, **options)

open_model.open_detector = lambda model, device, text_model: Slow()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.integration
def test_ctrl_c_leaves_finished_files(folder: Path) -> None:
    count = 120
    make_clip(Path("a.mp4"), times=[STEP * n for n in range(count)], pictures=[scene(n % 20) for n in range(count)])
    command = [sys.executable, "-c", _SLOW, "video", "a.mp4", *CLASSES, "--csv", "a.csv", "--json", "a.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        limit = time.monotonic() + 120
        while not Path("started").exists() and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert out == ""
    assert err.startswith("cora: interrupted after ")
    assert "what was done is in cora-output/a.mp4, a.csv, a.json" in err
    assert files(folder) == ["a.csv", "a.json", "a.mp4", "cora-output/a.mp4", "started"]
    content = json.loads(Path("a.json").read_text())
    with VideoReader("cora-output/a.mp4") as video:
        frames = list(video)
    assert video.problems == ()
    assert 0 < len(frames) == len(content["frames"]) < count
    assert content["complete"] is False
    assert Path("a.csv").read_text().startswith("frame,seconds,track")


def test_without_a_score_the_models_own_threshold_holds(
    loaded: FakeDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(Path("a.mp4"))
    strict = PostprocessConfig(score_threshold=0.75, distractors="everyday")
    loaded.config = replace(loaded.config, postprocess=strict)
    assert main(["video", "a.mp4", *CLASSES, "--no-video", "--json", "tracks.json"]) == 0
    out = capsys.readouterr().out
    assert "with a score of 0.75 or more" in out
    assert out.count("everyday names compete with yours") == 1
    assert json.loads(Path("tracks.json").read_text())["score"] == 0.75
