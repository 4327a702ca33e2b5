"""Images by the names that annotation files have for them."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    with pytest.raises(DataError, match=r"expected a folder of images, got no folder at .*none"):
        PhotoFolder(tmp_path / "none")


#: name in an annotation file, images in the folder, the one that is meant ("" for none)
NAMES = {
    "folder in the name": ("images/a.jpg", ["a.jpg"], "a.jpg"),
    "folder above": ("../../media/upload/4/a.jpg", ["a.jpg"], "a.jpg"),
    "absolute": ("/home/x/set/a.jpg", ["a.jpg"], "a.jpg"),
    "Windows": ("C:\\Users\\x\\a.jpg", ["a.jpg"], "a.jpg"),
    "Windows with dots": ("..\\..\\media\\a.jpg", ["a.jpg"], "a.jpg"),
    "Windows server": ("\\\\server\\share\\a.jpg", ["a.jpg"], "a.jpg"),
    "address": ("https://example.org/set/a.jpg", ["a.jpg"], "a.jpg"),
    "address with a key": ("https://x.org/set/a.jpg?X-Amz=1&b=2#c", ["a.jpg"], "a.jpg"),
    "bucket": ("s3://bucket/set/a.jpg", ["a.jpg"], "a.jpg"),
    "file address": ("file:///C:/set/a%20b.jpg", ["a b.jpg"], "a b.jpg"),
    "Label Studio's local files": ("/data/local-files/?d=set/a.jpg", ["set/a.jpg"], "set/a.jpg"),
    "blank at the end": ("set/a.jpg ", ["a.jpg"], "a.jpg"),
    "percent": ("my%20cup.jpg", ["my cup.jpg"], "my cup.jpg"),
    "percent that is there": ("my%20cup.jpg", ["my%20cup.jpg", "my cup.jpg"], "my%20cup.jpg"),
    "capitals": ("A.JPG", ["a.jpg"], "a.jpg"),
    "accents as macOS writes them": ("cafe\u0301.jpg", ["caf\u00e9.jpg"], "caf\u00e9.jpg"),
    "upload left out": ("cb06a1b2-a.jpg", ["a.jpg"], "a.jpg"),
    "upload on the disk": ("a.jpg", ["cb06a1b2-a.jpg"], "cb06a1b2-a.jpg"),
    "upload in a path": ("/data/upload/4/cb06a1b2-a.jpg", ["a.jpg"], "a.jpg"),
    "Roboflow": ("a_jpg.rf.0123456789abcdef0123456789abcdef.jpg", ["a.jpg"], "a.jpg"),
    "Roboflow on the disk": ("a.jpg", ["a_jpg.rf.0123456789abcdef0123456789abcdef.jpg"], "a_jpg.rf."),
    "another ending": ("a.jpeg", ["a.png"], "a.png"),
    "no ending": ("set/a", ["a.png"], "a.png"),
    "in a folder below": ("a.jpg", ["deep/er/a.jpg"], "deep/er/a.jpg"),
    "the folder that fits better": ("set/x/a.jpg", ["x/a.jpg", "y/a.jpg"], "x/a.jpg"),
    "two that fit": ("a.jpg", ["x/a.jpg", "y/a.jpg"], ""),
    "two uploads": ("a.jpg", ["cb06a1b2-a.jpg", "0123abcd-a.jpg"], ""),
    "two endings": ("a.gif", ["a.jpg", "a.png"], ""),
    "another upload": ("cb06a1b2-a.jpg", ["0123abcd-a.jpg"], ""),
    "another date": ("20200101-a.jpg", ["20200102-a.jpg"], ""),
    "word before a dash": ("face-mask.jpg", ["mask.jpg"], ""),
    "another part of the set": ("val/a.jpg", ["train/a.jpg"], ""),
    "hidden": ("x/._a.jpg", ["._a.jpg"], ""),
    "no image": ("x/a.txt", ["a.txt"], ""),
    "not there": ("b.jpg", ["a.jpg"], ""),
}


@pytest.mark.parametrize("kind", NAMES)
def test_images_under_other_names(tmp_path: Path, kind: str) -> None:
    name, there, meant = NAMES[kind]
    for file in there:
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    if name != meant and (tmp_path / "set" / name).is_file():
        return  # a disk that tells no capitals or accents apart, as macOS has
    bad, repairs = Problems(), Problems()
    found = PhotoFolder(tmp_path / "set", [name]).find(name, bad, repairs)
    if meant:
        assert found is not None
        assert found.relative_to(tmp_path / "set").as_posix().startswith(meant)
        assert repairs.counts.total() == (name != meant)
        assert not bad
    else:
        assert found is None
        assert bad.counts.total() == 1
        assert not repairs


def test_two_names_never_stand_for_one_image(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    names = ["x/a.jpg", "y/a.jpg", "x/b.jpg", "b.jpg"]
    folder, bad, repairs = PhotoFolder(tmp_path, names), Problems(), Problems()
    found = [folder.find(name, bad, repairs) for name in names]
    assert found == [None, None, None, tmp_path / "b.jpg"]
    assert dict(bad.counts) == {"file names that more than one image fits, or that fit one image together": 3}


def test_the_most_folders_in_common_count_in_a_relative_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("z", "z/y/z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert PhotoFolder(Path("z")).find("/data/x/y/z/A.jpg", Problems(), Problems()) == Path("z/y/z/a.jpg")


def test_the_folder_above_is_named_where_it_would_fit(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").touch()
    bad = Problems()
    assert PhotoFolder(tmp_path / "images").find("other/a.jpg", bad, Problems()) is None
    assert f"other/a.jpg: is the image folder the one above, {tmp_path}?" in str(bad)


PARTS = st.lists(st.sampled_from(["a", "b", "A", "set", "train", "val", "..", ".", ""]), max_size=3)
FILES = st.sampled_from(
    ["a.jpg", "A.JPG", "b.png", "a.png", "cb06a1b2-a.jpg", "a%20b.jpg", "a b.jpg", "\0", "?d=a.jpg"]
)


@settings(max_examples=80, deadline=None)
@given(
    there=st.lists(
        st.tuples(st.sampled_from(["", "a", "train", "val/b"]), st.sampled_from(["a.jpg", "A.jpg", "b.png"]))
    ),
    names=st.lists(st.tuples(PARTS, FILES).map(lambda both: "/".join((*both[0], both[1]))), max_size=4, unique=True),
)
def test_no_name_leaves_the_folder_and_none_shares_an_image(there: list[tuple[str, str]], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        inside = Path(root) / "set"
        inside.mkdir()
        (Path(root) / "a.jpg").touch()
        for folder, file in there:
            (inside / folder).mkdir(parents=True, exist_ok=True)
            (inside / folder / file).touch()
        photos, bad = PhotoFolder(inside, names), Problems()
        exact = {name for name in names if name in photos}
        found = {name: photos.find(name, bad, Problems()) for name in names}
        for name, path in found.items():
            assert path is None or (path.is_file() and path.resolve().is_relative_to(inside.resolve()))
            assert name not in exact or path is not None
        nearly = [path for name, path in found.items() if path is not None and name not in exact]
        assert len(nearly) == len(set(nearly))
        assert not set(nearly) & {found[name] for name in exact}
        assert bad.counts.total() == sum(path is None for path in found.values())
