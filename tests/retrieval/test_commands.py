"""`cora index` and `cora search` through the real command line, with a small network of random weights."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cora.apps.cli import main
from cora.retrieval import RegionIndex
from cora.retrieval.manifest import MANIFEST, given_settings
from tests.detector.conftest import tiny_detector
from tests.retrieval.conftest import write_picture

pytestmark = pytest.mark.integration

OPTIONS = ("--score", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("model")
    tiny_detector(place / "cache").save(place / "tiny.safetensors")
    tiny_detector(place / "cache", seed=1).save(place / "other.safetensors")
    return str(place / "tiny.safetensors")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three images in `images`."""
    monkeypatch.chdir(folder.parent)
    return folder.parent


@pytest.fixture
def indexed(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["index", "photos", "--db", "db", "--model", model, *OPTIONS]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Images: 3 added. ")
    assert out.endswith("regions are in db.\n")
    assert err == ""
    return here


def test_again_nothing_is_done_and_the_model_is_known(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "photos", "--db", "db"]) == 0
    assert "3 unchanged" in capsys.readouterr().out


def test_everyday_names_of_the_model_are_said_where_names_are_looked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tiny_detector(here / "cache")
    postprocess = replace(detector.config.postprocess, distractors="everyday")
    detector.config = replace(detector.config, postprocess=postprocess)
    detector.save("everyday.safetensors")
    command = ["index", "photos", "--model", "everyday.safetensors", *OPTIONS]
    assert main([*command, "--db", "named", "--classes", "cup, zebra crossing"]) == 0
    line = "everyday names compete with yours and are not reported (the model's own choice)"
    assert capsys.readouterr().out.count(line) == 1
    assert main([*command, "--db", "free"]) == 0
    assert "compete" not in capsys.readouterr().out


def test_an_index_without_regions_keeps_its_model_too(here: Path, model: str) -> None:
    assert main(["index", "photos", "--db", "db", "--model", model, "--score", "1"]) == 0
    assert main(["index", "photos", "--db", "db"]) == 0
    assert main(["search", "db", "--text", "cup"]) == 0
    assert RegionIndex.open("db").settings.score == 1


def test_search_by_words(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "db", "--text", "a red cup", "--top", "4", "--json", "out/hits.json", "--sheet", "hits.jpg"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "similarity" in out
    assert "4 of" in out
    assert err == ""
    content = json.loads(Path("out/hits.json").read_text())
    assert content["query"] == {"text": "a red cup"}
    assert content["folder"] == str(indexed / "photos")
    assert len(content["regions"]) == 4
    best = content["regions"][0]
    assert set(best) == {"file", "bbox", "similarity", "score", "label", "copies"}
    assert best["file"] in {"a.png", "b.png", "deeper/c.png"}
    hit = RegionIndex.open("db").search_text(tiny_detector(indexed / "cache"), "red cup", top=1)[0]
    x, y, width, height = best["bbox"]
    assert (x, y, x + width, y + height) == pytest.approx(hit.box_xyxy_px, abs=0.02)
    with Image.open("hits.jpg") as sheet:
        assert sheet.width > 400


def test_search_by_a_picture_and_a_part_of_it(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "db", "--image", "photos/b.png", "--json", "whole.json"]) == 0
    command = [
        "search",
        "db",
        "--image",
        "photos/b.png",
        "--box",
        "8,8,16,16",
        "--json",
        "part.json",
        "--per-picture",
        "1",
    ]
    assert main([*command, "--sheet", "part.png"]) == 0
    whole, part = (json.loads(Path(name).read_text()) for name in ("whole.json", "part.json"))
    assert whole["query"] == {"image": "photos/b.png", "bbox": None}
    assert part["query"] == {"image": "photos/b.png", "bbox": [8, 8, 16, 16]}
    assert part["regions"] != whole["regions"]
    assert len(part["regions"]) == 3


def test_classes_are_kept_and_shown(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "photos", "--db", "db", "--model", model, "--classes", "cat, dog", *OPTIONS]) == 0
    assert main(["search", "db", "--text", "cat"]) == 0
    out = capsys.readouterr().out
    assert "class" in out
    assert "cat" in out or "dog" in out


def test_lvis_names() -> None:
    given = given_settings("lvis", None, 2)
    assert given["max_regions"] == 2
    assert len(given["classes"]) == 1203
    assert "aerosol can" in given["classes"]


def test_unreadable_pictures_are_counted(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/broken.jpg").write_text("no image")
    assert main(["index", "photos", "--db", "db", "--model", model, *OPTIONS]) == 1
    out, err = capsys.readouterr()
    assert "3 added" in out
    assert "got something that is no image" in err
    assert err.endswith("cora: warning: 1 of the images could not be read\n")


def test_a_file_that_is_gone_is_told_and_the_rest_drawn(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/a.png").unlink()
    assert main(["search", "db", "--text", "cup", "--top", "40", "--sheet", "hits.png"]) == 1
    assert "got no file at" in capsys.readouterr().err
    assert Path("hits.png").is_file()


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    text = ("--text", "cup")
    return {
        "no folder": (["index", "none", "--db", "new"], "expected a folder with images, got nothing: none"),
        "folder is a file": (["index", "photos/a.png", "--db", "new"], "got a file: photos/a.png"),
        "no pictures": (["index", "empty", "--db", "new"], "got none in or below empty"),
        "db is a file": (["index", "photos", "--db", "photos/a.png"], "expected a folder to write to, got a file"),
        "db is a folder of other things": (["index", "photos", "--db", "more"], "expected a free place"),
        "db is the folder": (["index", "photos", "--db", "photos"], "got photos, which is read"),
        "other folder": (["index", "more", "--db", "db"], "expected its folder"),
        "other classes": (["index", "photos", "--db", "db", "--classes", "cat"], "expected the classes"),
        "other score": (["index", "photos", "--db", "db", "--score", "0.5"], "expected the score"),
        "blank class": (["index", "photos", "--db", "new", "--classes", "cat,,dog"], "blank one at position 2"),
        "score": (["index", "photos", "--db", "new", "--score", "3"], "expected a number in 0..1, got '3'"),
        "index with another model": (["index", "photos", "--db", "db", "--model", "OTHER"], "expected the model that"),
        "no db": (["search", "none", *text], "expected an index at none, got nothing; make it: cora index DIR"),
        "db is none": (["search", "photos", *text], "got a folder without one"),
        "search with another model": (["search", "db", *text, "--model", "OTHER"], "expected the model that made it"),
        "exported model": (["search", "db", *text, "--model", "x.onnx"], "got the exported x.onnx"),
        "no query": (["search", "db"], "one of the arguments --text --image is required"),
        "two queries": (["search", "db", *text, "--image", "photos/a.png"], "not allowed with argument"),
        "empty words": (["search", "db", "--text", " "], "expected a text to search for"),
        "no picture": (["search", "db", "--image", "none.png"], "got no file at none.png"),
        "no image": (["search", "db", "--image", "text.png"], "something that is no image"),
        "box without image": (["search", "db", *text, "--box", "1,2,3,4"], "expected an --image"),
        "box is none": (
            ["search", "db", "--image", "photos/a.png", "--box", "1,2,3"],
            "expected a box x,y,width,height",
        ),
        "box outside": (
            ["search", "db", "--image", "photos/a.png", "--box", "30,0,30,10"],
            "within an image of 48 x 32 pixels",
        ),
        "top": (["search", "db", *text, "--top", "0"], "expected a whole number of 1 or more, got '0'"),
        "sheet": (
            ["search", "db", *text, "--sheet", "hits.gif"],
            "expected a file that ends in .png or .jpg or .jpeg, got hits.gif",
        ),
        "JSON is a folder": (["search", "db", *text, "--json", "photos"], "expected a file to write to, got a folder"),
        "damaged": (["search", "damaged", *text], "trouble with its files"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    indexed: Path, model: str, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    Path("empty").mkdir()
    write_picture(Path("more/x.png"), 3)
    Path("text.png").write_text("I am no image. " * 20)
    Path("damaged").mkdir()
    Path("damaged", MANIFEST).write_text(Path("db", MANIFEST).read_text())
    before = sorted(path for path in indexed.rglob("*") if "db" not in path.parts)
    arguments, message = bad_inputs()[case]
    arguments = [model.replace("tiny", "other") if argument == "OTHER" else argument for argument in arguments]
    try:
        code: object = main(arguments)
    except SystemExit as ending:  # argparse's way
        code = ending.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("cora: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path for path in indexed.rglob("*") if "db" not in path.parts) == before
    assert "Traceback" not in err


def test_ctrl_c_ends_with_130_and_the_command_goes_on(here: Path, model: str) -> None:
    for seed in range(150):
        write_picture(here / "photos" / f"{seed}.png", seed, (96, 64))
    command = [sys.executable, "-m", "cora", "index", "photos", "--db", "db", "--model", model, *OPTIONS]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not Path("db", MANIFEST).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "cora: interrupted while indexing; what is done is kept, the same command goes on\n"
    assert main(["index", "photos", "--db", "db"]) == 0
    index = RegionIndex.open("db")
    assert len(index._store.pictures()) == 153
    assert index._store.drop_orphans() == 0
