"""One listing of images, and the same count in every command that takes a folder."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.batch.listing import list_inputs
from cora.data.listing import files_ending, list_images, walk_images
from cora.data.problems import Problems
from cora.data.sources import find_images
from cora.images import IMAGE_SUFFIXES
from cora.retrieval.update import list_pictures


def names_of(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_what_counts_and_what_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, others = ["b.JPG", "a.jpg", "x/c.HEIC", "x/d.avif"], ["f.CR2", "g.pdf", "h.svg", "IMG_2.MOV", "notes.txt"]
    fill(tmp_path, [*kept, *others, "._a.jpg", ".DS_Store", ".git/e.jpg"])
    images, problems = list_images(tmp_path)
    assert names_of(images, tmp_path) == ["a.jpg", "b.JPG", "x/c.HEIC", "x/d.avif"]
    assert not problems
    for said in (
        "1 hidden file (first: ._a.jpg)",
        "1 hidden folder (first: .git)",
        "3 files of kinds that cannot be read (first: f.CR2)",
        "1 video, which 'cora video' reads (first: IMG_2.MOV)",
    ):
        assert said in caplog.text
    caplog.clear()
    images, _ = list_images(tmp_path, deep=False)
    assert names_of(images, tmp_path) == ["a.jpg", "b.JPG"]
    assert "1 folder, whose images have to be named (first: x)" in caplog.text
    caplog.clear()
    list_images(tmp_path, tell=False)
    assert not caplog.text


def test_links_to_folders_are_passed_over_and_those_to_files_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "real", ["a.jpg"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    passed_over = Problems()
    found = [Path(entry.path).name for entry in walk_images(str(tmp_path / "set"), passed_over=passed_over)]
    assert found == ["b.jpg"]
    assert dict(passed_over.counts) == {"linked folders": 1}


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    images, problems = list_images(tmp_path / "none")
    assert (images, len(problems)) == ([], 1)
    assert "expected a readable folder, got No such file or directory" in problems[0]


def test_endings_of_annotations_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, ["a.xml", "B.XML", "._a.xml", "c.txt", "deep/d.xml"])
    assert names_of(files_ending(tmp_path, ".xml"), tmp_path) == ["B.XML", "a.xml"]
    assert names_of(files_ending(tmp_path, ".xml", deep=True), tmp_path) == ["B.XML", "a.xml", "deep/d.xml"]


ENDINGS = st.sampled_from([*sorted(IMAGE_SUFFIXES), ".JPG", ".Heic", ".txt", ".xml", "", ".cr2"])
FOLDERS, STEMS = st.sampled_from(["", ".hidden/", "sub/", "sub/deeper/"]), st.sampled_from(["a", "._a", ".b", "c d"])
NAMES = st.tuples(FOLDERS, STEMS, ENDINGS)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(NAMES.map("".join), max_size=8, unique_by=str.casefold))
def test_all_commands_list_the_same(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "in"
        folder.mkdir()
        fill(folder, [name for name in names if not name.endswith("/")])
        listed = names_of(list_images(folder)[0], folder)
        expected = {
            name
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith(".") for p in Path(name).parts)
        }  # fmt: skip
        assert set(listed) == expected
        assert len(listed) == len(expected)
        assert list_pictures(folder) == sorted(listed)
        if listed:
            batch = list_inputs([str(folder)], file=Path(root) / "list", exclude=Path(root) / "out")
            lines = batch.file.read_text().splitlines()
            assert [str((batch.root / json.loads(line)["name"]).relative_to(folder)) for line in lines] == listed
        if direct := [name for name in listed if "/" not in name]:
            assert names_of(list(find_images([str(folder)]).paths), folder) == direct


def test_a_name_that_no_result_can_hold_is_reported(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"b\xffd.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this disk knows names in UTF-8 only")
    fill(tmp_path, ["a.jpg"])
    for sources in ([str(tmp_path)], [str(path) for path in tmp_path.iterdir()], [f"{tmp_path}/*"]):
        found = find_images(sources)
        assert [path.name for path in found.paths] == ["a.jpg"]
        assert [problem.encode() for problem in found.problems]
        assert r"expected a file name in UTF-8, got '" in found.problems[0]
        assert found.problems[0].endswith(r"b\udcffd.jpg'; rename it")


def test_a_source_longer_than_a_file_name_may_be_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg"])
    found = find_images([str(tmp_path), "x" * 5000])
    assert [path.name for path in found.paths] == ["a.jpg"]
    assert found.problems[0].startswith("expected an image file, got no file at xxx")
