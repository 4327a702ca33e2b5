"""Images by the names that annotation files have for them."""

from pathlib import Path

import pytest

from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Problems
from cora.errors import DataError


@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "a/../../out.png",
        "/etc/out.png",
        "..",
        "",
        ".",
        "C:\\out.png",
        "C:out.png",
        "..\\out.png",
        "\\out",
    ],
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "out.png").touch()
    photos, bad = PhotoFolder(folder), Problems()
    assert photos.path(name) is None
    assert name not in photos
    assert photos.find(name, bad, Problems()) is None
    assert dict(bad.counts) == {"file names that leave the image folder": 1}


@pytest.mark.parametrize("name", ["a.png", "deep/er/a.png", "deep\\er\\a.png", "./a.png"])
def test_names_inside_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.png").touch()
    (tmp_path / "deep" / "er" / "a.png").touch()
    bad = Problems()
    path = PhotoFolder(tmp_path).find(name, bad, Problems())
    assert path is not None
    assert path.is_file()
    assert path.is_relative_to(tmp_path)
    assert not bad


@pytest.mark.parametrize("name", ["b.png", "x" * 5000, "nul\0.png", "deep", "\ud800.png"])
def test_missing_files_and_impossible_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    bad = Problems()
    assert PhotoFolder(tmp_path).find(name, bad, Problems()) is None
    assert bad.counts.total() == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder of photos, but .*none is missing"):
        PhotoFolder(tmp_path / "none")
