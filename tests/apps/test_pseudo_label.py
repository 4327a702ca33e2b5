"""`cora pseudo-label` without a network: other detectors' boxes, and every bad input before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cora
from cora.apps.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two images, captions, real boxes of one image and another detector's boxes of both."""

    def load(name: str) -> None:
        raise AssertionError("a model was loaded before the inputs were checked")

    monkeypatch.setitem(vars(cora), "load", load)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 40), "white").save(f"photos/{name}")
    images = [{"id": i, "file_name": f"{name}.jpg", "width": 60, "height": 40} for i, name in enumerate("ab", start=1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "bus"}]
    results = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 0, 20, 20], "score": 0.8},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [30, 0, 20, 20], "score": 0.7},
    ]
    write("results.json", {"images": images, "categories": categories, "annotations": results})
    real = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 0, 20, 20]}]
    write("real.json", {"images": images[:1], "categories": categories[:1], "annotations": real})
    write("split.json", {"base": ["cat"], "novel": ["bus"]})
    Path("captions.csv").write_text("a.jpg,a cat on a bus\nb.jpg,two buses\n")
    return tmp_path


def write(name: str, content: object) -> None:
    Path(name).write_text(json.dumps(content))


def read(name: str) -> dict[str, Any]:
    content = json.loads(Path(name).read_text())
    assert isinstance(content, dict)
    return content


def test_boxes_of_another_detector(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--results", "results.json", "--teacher", "other", "--score", "0.75", "--output", "new.json"]
    assert main(["pseudo-label", "photos", *options]) == 0
    content = read("new.json")
    assert [one["bbox"] for one in content["annotations"]] == [[0, 0, 20, 20], [30, 0, 20, 20]]
    assert {one["source"]["model"] for one in content["annotations"]} == {"other"}
    assert content["info"]["results"]["file"] == "results.json"
    assert len(content["info"]["results"]["sha256"]) == 64
    out = capsys.readouterr().out
    assert "2 images, 1 of them with boxes: 2 boxes of 2 classes." in out
    assert "Pseudo boxes are in new.json." in out
    for word in ("class", "cat", "bus"):
        assert word in out


def test_merging_with_real_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--results", "results.json", "--real", "real.json", "--merge", "--output", "all.json"]
    assert main(["pseudo-label", "photos", *options]) == 0
    assert [one["bbox"] for one in read("all-pseudo.json")["annotations"]] == [[30, 0, 20, 20]] * 2
    merged = read("all.json")
    assert [category["name"] for category in merged["categories"]] == ["cat", "bus"]
    assert [("source" in one, one["image_id"]) for one in merged["annotations"]] == [(False, 1), (True, 1), (True, 2)]
    out = capsys.readouterr().out
    assert "1 more lie on real boxes and are left out" in out
    assert "all.json has 3 boxes, real and pseudo, of 2 classes, 1 of them extra; 1 image is new." in out


def test_novel_names_are_refused_dropped_or_kept(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["photos", "--results", "results.json", "--split", "split.json", "--output", "new.json"]
    assert main(["pseudo-label", *options]) == 2
    assert "novel classes, got 1: bus (2 images); leave them out (--novel-names drop)" in capsys.readouterr().err
    assert not Path("new.json").exists()
    assert main(["pseudo-label", *options, "--novel-names", "drop"]) == 0
    assert [category["name"] for category in read("new.json")["categories"]] == ["cat"]
    assert "novel names left out: 1, in so many images: bus (2)" in capsys.readouterr().out
    assert main(["pseudo-label", *options, "--novel-names", "keep"]) == 0
    assert [category["name"] for category in read("new.json")["categories"]] == ["bus", "cat"]
    assert "novel names used: 1" in capsys.readouterr().out


def test_nothing_above_the_score_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pseudo-label", "photos", "--results", "results.json", "--score", "1", "--output", "new.json"]) == 0
    assert "No box has a score of 1 or more; try a lower --score." in capsys.readouterr().out


CAPTIONS = ["--captions", "captions.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--captions", "none.csv"], "no caption file at none.csv"),
        (["--results", "none.json"], "no COCO JSON file at none.json"),
        ([*CAPTIONS, "--real", "none.json"], "no annotation file at none.json"),
        ([*CAPTIONS, "--merge"], "--merge: expected real annotations to merge with, got none; name them (--real)"),
        ([*CAPTIONS, "--max-per-class", "3"], "expected --merge with them, got none; add it"),
        ([*CAPTIONS, "--novel-names", "keep"], "expected a split with novel classes, got none; add --split"),
        ([*CAPTIONS, "--split", "none.json"], "no class split at none.json"),
        ([*CAPTIONS, "--split", "split.json"], "novel classes, got 1: bus (2 images)"),
        ([*CAPTIONS, "--output", "photos"], "expected a file to write to, got a folder: photos"),
        ([*CAPTIONS, "--output", "new.txt"], "expected a name that ends with .json, got 'new.txt'"),
        ([*CAPTIONS, "--real", "real.json", "--output", "real.json"], "got real.json, which is read"),
        ([*CAPTIONS, "--nouns-from", "none.txt"], "expected a file of class names, got No such file"),
        ([*CAPTIONS, "--nouns-from", "split.json"], "split.json: expected a JSON list of class names"),
        ([*CAPTIONS, "--class-scores", "none.json"], "cannot read none.json"),
        ([*CAPTIONS, "--class-scores", "results.json"], "expected a score in 0..1"),
        ([*CAPTIONS, "--device", "abacus"], "expected a device"),
        (["--classes", "cat, Cat"], "expected every name once, got 'cat' twice"),
        (["--classes", " "], "expected at least one"),
        (["--classes", "cat", "--texts", "tags"], "--texts: expected with --captions only"),
        (["--classes", "cat", "--nouns-from", "names.txt"], "--nouns-from: expected with --captions only"),
        ([*CAPTIONS, "--teacher", "other"], "--teacher: expected with --results only"),
        ([*CAPTIONS, "--image-list", "real.json"], "--image-list: expected with --results only"),
        (["--results", "results.json", "--distractors", "none"], "--distractors: expected with --captions or"),
        (["--results", "real.json"], "1 result without image_id, category_id, bbox or score"),
        (
            [*CAPTIONS, "--real", "real.json", "--merge", "--min-per-class", "3", "--max-per-class", "2"],
            "--max-per-class: expected at least 3 (--min-per-class), got 2",
        ),
    ],
)  # fmt: skip
def test_bad_input_gives_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    before = sorted(Path().rglob("*"))
    output = [] if "--output" in options else ["--output", "new.json"]
    assert main(["pseudo-label", "photos", *options, *output]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_missing_folder_and_one_without_photos_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["pseudo-label", "nowhere", "--classes", "cat", "--output", "new.json"]) == 2
    assert "got no folder at nowhere" in capsys.readouterr().err
    assert main(["pseudo-label", "empty", "--classes", "cat", "--output", "new.json"]) == 2
    assert "expected a folder with images, got none in empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [[], [*CAPTIONS, "--classes", "cat"], [*CAPTIONS, "--score", "2"], [*CAPTIONS, "--limit", "0"]],
)
def test_the_parser_refuses(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pseudo-label", "photos", *options, "--output", "new.json"])
    assert "see 'cora pseudo-label --help'" in capsys.readouterr().err
