"""`cora detect` through its real command line, with a stand-in for the network."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import cora
from cora.apps.cli import main
from cora.detector import PostprocessConfig
from cora.errors import CoraError
from cora.files import write_picture
from cora.images import read_image
from tests.apps.conftest import FakeDetector

pytestmark = pytest.mark.usefixtures("loaded", "folder")

CLASSES = ("--classes", "cat, remote control")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photos/white.jpg", *CLASSES]) == 0
    out, err = capsys.readouterr()
    for part in ("white.jpg", "cat", "0.80", "0, 0, 40, 60", "1 object in 1 image.", "cora-output"):
        assert part in out
    assert err == ""
    with Image.open("cora-output/white.jpg") as drawn:
        assert drawn.size == (80, 60)


def test_ctrl_c_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        Image.new("RGB", (80, 60), "white").save(f"photos/z{number}.jpg")

    def interrupted(path: Path, **options: Any) -> Image.Image:
        if path.name == "z1.jpg":
            raise KeyboardInterrupt
        return read_image(path, **options)

    monkeypatch.setattr("cora.predictor.images.read_image", interrupted)
    assert main(["detect", "photos", *CLASSES, "--json", "boxes.json"]) == 130
    err = capsys.readouterr().err
    assert err == "cora: interrupted after 3 of 5 images; what was found is in cora-output and boxes.json\n"
    found = json.loads(Path("boxes.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [
        "photos/black.png",
        "photos/white.jpg",
        "photos/z0.jpg",
    ]
    assert len(found["annotations"]) == 2


def test_a_full_disk_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, *content: Any) -> None:
        if path.name in ("white.jpg", "new.json"):
            raise CoraError(f"expected to write {path}, got No space left on device; free or choose another place")
        write_picture(path, *content)

    monkeypatch.setattr("cora.apps.detect.write_picture", full)
    assert main(["detect", "photos", *CLASSES, "--json", "boxes.json", "--csv", "boxes.csv"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "got No space left on device" in err
    assert err.endswith("(after 1 of 2 images; what was found is in cora-output and boxes.json and boxes.csv)\n")
    kept = json.loads(Path("boxes.json").read_text())["images"]
    assert [image["file_name"] for image in kept] == ["photos/black.png"]
    monkeypatch.setattr("cora.apps.detect.write_json", full)  # no room for the boxes, either
    assert main(["detect", "photos", *CLASSES, "--json", "new.json"]) == 2
    assert capsys.readouterr().err.endswith("free or choose another place\n")
    assert not Path("new.json").exists()


def test_many_images_are_counted_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        Image.new("RGB", (80, 60), "white").save(f"photos/z{number}.jpg")
    assert main(["detect", "photos", *CLASSES]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "cat" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["cat", "10", "10", "0.80", "photos/white.jpg"]
    assert "z3.jpg" not in out
    assert "10 objects in 11 images." in out
    assert main(["detect", "photos/z*.jpg", *CLASSES]) == 0
    out = capsys.readouterr().out
    assert all(f"z{number}.jpg" in out for number in range(9))


def test_csv_has_a_row_for_every_box(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/a, b.jpg").write_bytes(Path("photos/white.jpg").read_bytes())
    for _ in range(2):  # the same command again may replace it
        assert main(["detect", "photos", *CLASSES, "--csv", "new/boxes.csv", "--json", "boxes.json"]) == 0
        assert "Images are in cora-output, boxes in boxes.json, boxes in new/boxes.csv." in capsys.readouterr().out
    with Path("new/boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["photos/a, b.jpg", "photos/white.jpg"]
    assert list(rows[0].values())[1:] == ["cat", "0.80000", "0.00", "0.00", "40.00", "60.00"]
    assert main(["detect", "photos/black.png", *CLASSES, "--csv", "new/boxes.csv"]) == 0
    assert Path("new/boxes.csv").read_text() == "file,class,score,left,top,right,bottom\n"


def test_a_log_has_progress_of_long_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photos", *CLASSES]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("cora.progress.FIRST", 0.0)
    assert main(["detect", "photos", *CLASSES]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "cora: detecting: 0 of 2"
    assert err[-1].startswith("cora: detecting: 2 of 2 in 0 s, ")
    assert main(["detect", "photos/white.jpg", *CLASSES]) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_at_the_first_image_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: Path, **options: Any) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr("cora.predictor.images.read_image", interrupted)
    assert main(["detect", "photos", *CLASSES, "--json", "boxes.json"]) == 130
    assert capsys.readouterr().err == "cora: interrupted after 0 of 2 images\n"
    assert not Path("boxes.json").exists()


def test_nothing_found_is_said_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photos/black.png", *CLASSES, "--json", "boxes.json"]) == 0
    assert "Nothing found in 1 image with a score of 0.3 or more" in capsys.readouterr().out
    assert json.loads(Path("boxes.json").read_text())["annotations"] == []
    assert Path("cora-output/black.jpg").is_file()


def test_score_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photos/white.jpg", *CLASSES, "--score", "0.9"]) == 0
    assert "Nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "given"),
    [([], None), (["--distractors", "none"], []), (["--distractors", "tree, car"], ["tree", "car"])],
)
def test_distractors_are_passed_on(options: list[str], given: list[str] | None) -> None:
    assert main(["detect", "photos/white.jpg", *CLASSES, *options]) == 0
    seen = cora.load("nano").distractors
    assert (None if seen is None else list(seen)) == given


@pytest.mark.parametrize(
    ("options", "given"), [([], None), (["--class-agnostic"], True), (["--no-class-agnostic"], False)]
)
def test_suppression_between_classes_is_passed_on(options: list[str], given: bool | None) -> None:
    assert main(["detect", "photos/white.jpg", "--classes", "cat", *options]) == 0
    assert cora.load("nano").options["class_agnostic"] is given  # type: ignore[attr-defined]


def test_without_classes_it_says_what_it_looks_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*options: str) -> list[str]:
        assert main(["detect", "photos/white.jpg", "--json", "boxes.json", *options]) == 0
        return capsys.readouterr().out.splitlines()

    monkeypatch.setattr(FakeDetector, "postprocess", PostprocessConfig(score_threshold=0.9, builtin_threshold=0.2))
    built_in = "Built-in vocabulary: 2 class names, score threshold {}, one name for each object"
    assert lines()[0].startswith(built_in.format("0.2") + ' (--classes "cup, dog" looks for your own)')
    names = [category["name"] for category in json.loads(Path("boxes.json").read_text())["categories"]]
    assert names == ["cup", "dog"]
    assert lines("--score", "0.7")[0].startswith(built_in.format("0.7"))
    assert lines("--no-class-agnostic")[0].startswith("Built-in vocabulary: 2 class names, score threshold 0.2 (")
    assert not any("vocabulary" in line for line in lines("--classes", "cat"))


def test_what_is_looked_for_is_said_once_an_image_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("no image")
    assert main(["detect", "a.txt", "photos/black.png"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("Built-in vocabulary: ")
    assert out.count("Built-in") == 1
    assert "something that is no image: a.txt" in err.splitlines()[0]
    Path("b.txt").write_text("no image")
    assert main(["detect", "a.txt", "b.txt"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3


def test_folder_glob_and_file_count_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "notes.txt").write_text("no image")
    (folder / "photos" / "deeper").mkdir()
    Image.new("RGB", (8, 8)).save("photos/deeper/other.png")
    assert main(["detect", "photos", "photos/*.jpg", "photos/white.jpg", *CLASSES]) == 0
    assert "1 object in 2 images." in capsys.readouterr().out
    assert files(folder / "cora-output") == ["black.jpg", "white.jpg"]
    assert main(["detect", "photos/**/*.png", *CLASSES, "--output", "deep"]) == 0
    assert files(folder / "deep") == ["black.jpg", "other.jpg"]


def test_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save("photos/a[1].png")
    assert main(["detect", "photos/a[1].png", *CLASSES]) == 0
    assert files(folder / "cora-output") == ["a[1].jpg"]


def test_same_names_get_different_outputs_and_sources_stay(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save("white.jpg")
    before = Path("white.jpg").read_bytes()
    assert main(["detect", "white.jpg", "photos/white.jpg", *CLASSES, "--output", "."]) == 0
    assert Path("white.jpg").read_bytes() == before
    assert {"white-2.jpg", "white-3.jpg"} <= set(files(folder))


def test_classes_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.txt").write_text("\ufeffbig [red] cat\n\n remote control \n", encoding="utf-8")
    assert main(["detect", "photos/white.jpg", "--classes", "@names.txt", "--json", "out/boxes.json"]) == 0
    assert "big [red] cat" in capsys.readouterr().out
    categories = json.loads(Path("out/boxes.json").read_text())["categories"]
    assert categories == [{"id": 1, "name": "big [red] cat"}, {"id": 2, "name": "remote control"}]


def test_json_is_coco() -> None:
    assert main(["detect", "photos", *CLASSES, "--json", "boxes.json"]) == 0
    content = json.loads(Path("boxes.json").read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "photos/black.png", "height": 60, "width": 40},
        {"id": 2, "file_name": "photos/white.jpg", "height": 60, "width": 80},
    ]
    (entry,) = content["annotations"]
    assert entry["image_id"] == 2
    assert entry["category_id"] == 1
    assert entry["bbox"] == [0, 0, 40, 60]
    assert entry["score"] == pytest.approx(0.8)
    assert (entry["area"], entry["iscrowd"]) == (2400, 0)


def test_batch_goes_on_after_a_bad_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/broken.jpg").write_bytes(Path("photos/white.jpg").read_bytes()[:200])
    assert main(["detect", "photos", "missing.jpg", *CLASSES, "--json", "boxes.json"]) == 1
    out, err = capsys.readouterr()
    assert "1 object in 2 images." in out
    lines = err.splitlines()
    assert len(lines) == 3
    assert "got no file at missing.jpg" in lines[0]
    assert "damaged or truncated one: photos/broken.jpg" in lines[1]
    assert lines[2] == "cora: warning: 2 of the sources could not be read"
    assert files(folder / "cora-output") == ["black.jpg", "white.jpg"]
    assert len(json.loads(Path("boxes.json").read_text())["images"]) == 2


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    white = "photos/white.jpg"
    return {
        "no such file": (["none.jpg", *CLASSES], "got no file at none.jpg"),
        "no match": (["photos/*.gif", *CLASSES], r"got none that match photos/*.gif"),
        "empty folder": (["empty", *CLASSES], "got none directly in empty"),
        "not an image": (["text.jpg", *CLASSES], "got something that is no image: text.jpg"),
        "not an image, no classes": (["text.jpg"], "got something that is no image: text.jpg"),
        "empty file": (["empty.jpg", *CLASSES], "got an empty file: empty.jpg"),
        "truncated": (["broken.jpg", *CLASSES], "damaged or truncated one: broken.jpg"),
        "too large": (["large.png", *CLASSES], "at most 100 megapixels, got 11000 x 10000: large.png"),
        "no classes": ([white, "--classes", ""], "got an empty list; leave --classes out for the built-in vocabulary"),
        "weight of no name": ([white, "--class-weights", "gizmo=2"], "for one of aerosol can, air conditioner"),
        "weights of a long list": ([white, "--class-weights", "gizmo=2"], "and 1190 more, or a file, got gizmo=2"),
        "a comma alone": ([white, "--classes", " , "], "leave --classes out"),
        "blank name": ([white, "--classes", "cat,,dog"], "got a blank one at position 2"),
        "duplicate name": ([white, "--classes", "cat, Cat"], "twice"),
        "name too long": ([white, "--classes", "very " * 90 + "long"], "at most 77 tokens"),
        "no classes file": ([white, "--classes", "@none.txt"], "No such file or directory: none.txt"),
        "empty classes file": ([white, "--classes", "@empty.jpg"], "got none in empty.jpg"),
        "binary classes file": ([white, "--classes", f"@{white}"], "got a JPEG image"),
        "unknown model": (
            [white, *CLASSES, "--model", "giant"],
            "unknown model 'giant': expected one of nano",
        ),
        "score": ([white, *CLASSES, "--score", "30"], "expected a number in 0..1, got '30'"),
        "device": (
            [white, *CLASSES, "--device", "toaster"],
            "expected a device of this machine, got 'toaster'",
        ),
        "output is a file": (
            [white, *CLASSES, "--output", white],
            "expected a folder to write to, got a file",
        ),
        "JSON is a folder": (
            [white, *CLASSES, "--json", "photos"],
            "expected a file to write to, got a folder",
        ),
        "unknown option": ([white, *CLASSES, "--scroe", "1"], "unknown option --scroe, did you mean --score?"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    folder: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    Path("text.jpg").write_text("I am no image. " * 20)
    Path("empty.jpg").touch()
    Path("empty").mkdir()
    Path("broken.jpg").write_bytes(Path("photos/white.jpg").read_bytes()[:200])
    Image.new("1", (11000, 10000)).save("large.png")
    before = files(folder)
    arguments, message = bad_inputs()[case]
    try:
        code: object = main(["detect", *arguments])
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


def test_failed_write_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert main(["detect", "photos/white.jpg", *CLASSES]) == 2
    assert "got No space left on device" in capsys.readouterr().err
    assert files(folder / "cora-output") == []


def test_progress_bar_for_several_pictures_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    monkeypatch.setattr("cora.console.error_console", lambda: Console(file=screen, force_terminal=True, width=80))
    assert main(["detect", "photos/white.jpg", *CLASSES]) == 0
    assert screen.getvalue() == ""
    assert main(["detect", "photos", *CLASSES]) == 0
    assert "detecting" in screen.getvalue()
    assert "2/2" in screen.getvalue()


def test_refusal_of_the_machine_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("cora.data.listing.os.scandir", refuse)
    assert main(["detect", "photos", *CLASSES]) == 2
    assert capsys.readouterr().err == "cora: error: expected a readable folder, got Permission denied: photos\n"


def test_what_a_folder_passes_over_is_told(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/._white.jpg").write_bytes(b"\0\5\26\7")
    Path("photos/raw.CR2").write_bytes(b"II")
    Path("photos/IMG_1.HEIC").write_bytes(b"....ftypheic")
    Image.new("RGB", (8, 8), "white").save("photos/CAPITALS.PNG")
    assert main(["detect", "photos", *CLASSES]) == 1
    out, err = capsys.readouterr()
    assert "CAPITALS.PNG" in out
    assert "IMG_1.HEIC" in err
    assert "photos: skipped 1 hidden file (first: ._white.jpg); 1 file of kinds that cannot be read" in caplog.text
