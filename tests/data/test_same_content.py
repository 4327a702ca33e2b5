"""The same image under several names: found by its bytes, kept on one side of a hold-out."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.data.read import read_dataset
from cora.data.same_content import files_hash, first_of_same, image_groups, tell_shared
from tests.data.writers import Photo, two_photos, write_coco

CONTENTS = st.lists(st.sampled_from([b"", b"a", b"b", b"a" * 5000, b"b" + b"a" * 4999, b"a" * 4999 + b"b"]), max_size=8)


@settings(max_examples=40, deadline=None)
@given(contents=CONTENTS)
def test_files_are_the_same_where_their_bytes_are(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{number}.jpg" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        assert first_of_same(paths) == [contents.index(content) for content in contents]
        groups = image_groups(paths)
    assert sorted(place for group in groups for place in group) == list(range(len(contents)))
    assert sorted(len(group) for group in groups) == sorted(contents.count(content) for content in set(contents))


@given(first=st.binary(max_size=9000), second=st.binary(max_size=9000))
def test_the_hash_of_files_tells_names_sizes_and_ends_apart(first: bytes, second: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        one, two = Path(root) / "one.jpg", Path(root) / "two.jpg"
        one.write_bytes(first)
        before = files_hash([one, two])  # the second is not there
        two.write_bytes(first)
        both = files_hash([one, two])
        two.write_bytes(second)
        assert files_hash([one, two]) != before
        same = (len(first), first[-4096:]) == (len(second), second[-4096:])
        assert (files_hash([one, two]) == both) == same
        assert files_hash([two, one]) != files_hash([one, two])


def test_files_that_are_not_there_are_like_no_other(tmp_path: Path) -> None:
    assert first_of_same([tmp_path / "a.jpg", tmp_path / "b.jpg"]) == [0, 1]


def test_what_roboflow_made_of_one_image_stays_together(tmp_path: Path) -> None:
    names = ["a_jpg.rf.0123456789abcdef.jpg", "b_jpg.rf.0123456789abcdef.jpg", "a_jpg.rf.fedcba9876543210.jpg", "a.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number % 3]))  # a.jpg has the bytes of the first
    assert image_groups([tmp_path / name for name in names]) == [[0, 2, 3], [1]]


def test_copies_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = [*two_photos(), Photo("c.png", (20, 40), [("dog", 1, 1, 5, 5, False)])]
    folder, path = write_coco(tmp_path, photos)
    dataset = read_dataset(images=folder, annotations=path)
    assert "1 image with the content of another (first: c.png: a.png); each keeps its own boxes" in caplog.text
    assert len(dataset) == 3


def test_images_on_both_sides_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, path = write_coco(tmp_path / "one", two_photos())
    first = read_dataset(images=folder, annotations=path)
    folder, path = write_coco(tmp_path / "two", [Photo("z.png", (20, 40), two_photos()[0].boxes)])
    second = read_dataset(images=folder, annotations=path)
    tell_shared(first, second)
    assert "1 of 1 images to measure on are learned from, too (first: a.png)" in caplog.text
    caplog.clear()
    for name in ("copy.png", "third.png"):
        shutil.copy(first.images / "a.png", first.images / name)
    copies = [replace(first.records[0], path=first.images / name) for name in ("a.png", "copy.png", "third.png")]
    tell_shared(first.with_records(copies), second)
    assert "1 of 1 images to measure on" in caplog.text  # not 3 of 1
    tell_shared(second, first.with_records(copies))
    assert "3 of 3 images to measure on are learned from, too (first: z.png)" in caplog.text
    caplog.clear()
    (folder / "z.png").write_bytes((folder / "z.png").read_bytes() + b"\n")
    tell_shared(first, second)
    assert not caplog.text
