import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.data.read import read_dataset
from cora.errors import DataError
from tests.data.writers import NAMES, Photo, boxes_of, random_photos, same_boxes, two_photos, write_photos, write_yolo


@settings(max_examples=25, deadline=None)
@given(photos=random_photos(crowds=False))
def test_boxes_survive_writing_and_reading(photos: list[Photo]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, names = write_yolo(Path(root), photos)
        dataset = read_dataset(images=folder, annotations=names)
    same_boxes(dataset, photos)
    assert not dataset.repairs
    assert (dataset.class_names, dataset.format) == (NAMES, "yolo")


def test_ids_are_those_of_the_labels(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    content = read_dataset(images=folder, annotations=names).to_coco()
    assert content["categories"] == [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert [entry["category_id"] for entry in content["annotations"]] == [0, 1, 1]


@pytest.mark.parametrize("named", ["data.yaml", "classes.txt", "labels", "", "nothing"])
def test_names_and_labels_are_found(tmp_path: Path, named: str) -> None:
    folder, names = write_yolo(tmp_path, two_photos(), part="train")
    if named == "classes.txt":
        names.unlink()
        (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n\n")
    annotations = {"labels": tmp_path / "labels" / "train", "nothing": None}.get(named, tmp_path / named)
    same_boxes(read_dataset(images=folder, annotations=annotations), two_photos())


def test_labels_lie_beside_the_photos(tmp_path: Path) -> None:
    folder, _ = write_yolo(tmp_path, two_photos())
    for label in (tmp_path / "labels").iterdir():
        label.rename(folder / label.name)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    (folder / "train.txt").write_text("images/a.png\n")
    (folder / "README.txt").write_text("images of pets")
    same_boxes(read_dataset(images=folder), two_photos())


def test_labels_of_a_part_are_found_in_the_set_by_part(tmp_path: Path) -> None:
    """The layout train/images, train/labels, with the names above."""
    folder, _ = write_yolo(tmp_path / "train", two_photos())
    (tmp_path / "train" / "data.yaml").rename(tmp_path / "data.yaml")
    same_boxes(read_dataset(images=folder, annotations=tmp_path / "data.yaml"), two_photos())
    same_boxes(read_dataset(images=folder), two_photos())


def test_photos_in_subfolders(tmp_path: Path) -> None:
    photos = [Photo(f"{part}/{photo.name}", photo.size, photo.boxes) for part in "xy" for photo in two_photos()]
    folder, names = write_yolo(tmp_path, photos)
    same_boxes(read_dataset(images=folder, annotations=names), photos)


def test_an_outline_gives_its_box(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    b = two_photos()[1]
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.25 0.75 0.25 0.5 0.75\n1.0 .1 .1 .2 .1 .2 .2 .1 .2\n\n")
    dataset = read_dataset(images=folder, annotations=names)
    same_boxes(dataset, [Photo("a.png", (20, 40), [("cat", 10, 5, 30, 15, False), ("dog", 4, 2, 8, 4, False)]), b])


def test_key_points_are_no_outline(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    names.write_text(names.read_text() + "kpt_shape: [2, 2]\n")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5 0.9 0.9 0 0\n")
    assert boxes_of(read_dataset(images=folder, annotations=names))["a.png"] == [("cat", 10, 5, 30, 15, False)]


def test_photos_turned_by_their_metadata(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    photo = Image.new("RGB", (40, 20))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(folder / "a.png", exif=exif)
    dataset = read_dataset(images=folder, annotations=names)
    assert dataset.records[0].size == (40, 20)
    assert dataset[0][0].size == (20, 40)


def test_photos_without_labels_are_background(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    write_photos(folder, [Photo("c.png", (5, 5)), Photo("d.png", (5, 5))])
    (tmp_path / "labels" / "d.txt").write_text("\n")
    found = boxes_of(read_dataset(images=folder, annotations=names))
    assert (found["c.png"], found["d.png"]) == ([], [])


LINE = "1 0.5 0.25 1.0 0.5\n"

#: content of b.txt, what is said about it; b has one sound line too
BAD = {
    "words": ("dog 0.5 0.5 0.2 0.2", r"1 line that is not numbers \(first: b.txt, line 2\)"),
    "unknown class": ("3 0.5 0.5 0.2 0.2", r"1 unknown category id \(first: b.txt, line 2: 3\)"),
    "negative class": ("-1 0.5 0.5 0.2 0.2", "1 unknown category id"),
    "fraction of a class": ("0.5 0.5 0.5 0.2 0.2", "1 unknown category id"),
    "pixels": ("1 15 15 6 6", "1 line outside 0..1, perhaps in pixels"),
    "negative width": ("1 0.5 0.5 -0.2 0.2", "1 line outside 0..1"),
    "not finite": ("1 0.5 0.5 inf 0.2", "1 line with a number that is not finite"),
    "no number": ("1 0.5 0.5 nan 0.2", "1 line with a number that is not finite"),
    "three numbers": ("1 0.5 0.5", r"1 line that is neither .* \(first: b.txt, line 2: 3 numbers\)"),
    "a score": ("1 0.5 0.5 0.2 0.2 0.9", "1 line that is neither .* line 2: 6 numbers"),
    "odd outline": ("1 0.5 0.5 0.2 0.2 0.9 0.3 0.1", "1 line that is neither .* line 2: 8 numbers"),
    "no width": ("1 0.5 0.5 0 0.2", r"1 box without an area \(first: b.txt, line 2\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_lines_are_refused_or_left_out(tmp_path: Path, kind: str) -> None:
    line, message = BAD[kind]
    folder, names = write_yolo(tmp_path, two_photos())
    (tmp_path / "labels" / "b.txt").write_text(LINE + line)
    with pytest.raises(DataError, match=message):
        read_dataset(images=folder, annotations=names)
    dataset = read_dataset(images=folder, annotations=names, skip_bad=True)
    same_boxes(dataset, two_photos())
    assert sum(dataset.dropped.values()) == 1


@settings(max_examples=60, deadline=None)
@given(text=st.binary(max_size=30) | st.text("0123456789.-e \n\t", max_size=40).map(str.encode))
def test_whatever_stands_in_a_file_no_other_error_comes_out(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, names = write_yolo(Path(root), two_photos())
        (Path(root) / "labels" / "b.txt").write_bytes(text)
        dataset = read_dataset(images=folder, annotations=names, skip_bad=True)
        assert len(dataset.records[0].classes) == 2
        names.write_bytes(text)
        with pytest.raises(DataError):
            read_dataset(images=folder, annotations=names, skip_bad=True)


SETS: dict[str, tuple[Callable[[Path], object], str, dict[str, int]]] = {
    "missing photo": (
        lambda root: (root / "images" / "b.png").unlink(),
        r"1 missing image file \(first: that of b.txt\)",
        {"missing image files": 1},
    ),
    "damaged photo": (
        lambda root: (root / "images" / "b.png").write_bytes(b"nothing"),
        r"1 image that cannot be read \(first: b.png",
        {"images that cannot be read": 1, "boxes of images left out": 1},
    ),
    "label file is no text": (
        lambda root: (root / "labels" / "b.txt").write_bytes(b"\xff\xfe"),
        r"1 label file that cannot be read \(first: b.txt: .*UTF-8",
        {"label files that cannot be read": 1},
    ),
    "two images, one label file": (
        lambda root: (root / "images" / "b.webp").write_bytes(b""),
        r"1 image that shares a label file with another \(first: b.webp\)",
        {"images that share a label file with another": 1},
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_bad_files_are_refused_or_left_out(tmp_path: Path, kind: str) -> None:
    change, message, dropped = SETS[kind]
    folder, names = write_yolo(tmp_path, two_photos())
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        read_dataset(images=folder, annotations=names)
    dataset = read_dataset(images=folder, annotations=names, skip_bad=True)
    assert dataset.dropped == dropped
    assert boxes_of(dataset)["a.png"] == [("cat", 10, 5, 30, 15, False), ("dog", 0, 0, 4, 4, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "cannot be read as YAML"),
        ("- " * 50_000, "cannot be read as YAML"),
        ("", "expected class names under names, got NoneType"),
        ("names: coco.names", "expected class names under names, got str"),
        ("names: []", "expected class names under names, got an empty list"),
        ("names: {a: cat}", r"1 name that is not a whole number and a text \(first: a\)"),
        ("names: [[cat], dog]", "1 name that is not a whole number"),
        ("names: {0: cat, 00: dog}", "1 name that is not a whole number"),
        ("names: [cat, '', dog]", "1 blank class name"),
        ("nc: 4\nnames: [cat, dog, bus]", r"1 number of classes \(nc\) unlike the names \(first: 4 for 3 names\)"),
        ("names: [cat]", "2 unknown category ids"),
    ],
)
def test_bad_names(tmp_path: Path, text: str, message: str) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    names.write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset(images=folder, annotations=names)


def test_names_by_number_and_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    names.write_text("names:\n  0: no\n  1: 7\n  5: 'null'\n")
    dataset = read_dataset(images=folder, annotations=names)
    assert dataset.category_ids == {"no": 0, "7": 1, "null": 5}


@pytest.mark.parametrize("names", ["[cat, dog, Cat]", "[cat, dog, 'cat ']", "[cat, dog, cat]"])
def test_names_that_differ_in_case_or_blanks_are_one_class(tmp_path: Path, names: str) -> None:
    folder, path = write_yolo(tmp_path, two_photos())
    path.write_text(f"names: {names}\n")
    (tmp_path / "labels" / "b.txt").write_text("2 .5 .5 .2 .2\n")
    dataset = read_dataset(images=folder, annotations=path)
    assert dataset.category_ids == {"cat": 0, "dog": 1}
    assert dataset.class_counts().tolist() == [2, 1]
    assert sum(dataset.repairs.values()) == 1


def test_a_yaml_builds_nothing(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    names.write_text(f"names: !!python/object/apply:os.mkdir ['{tmp_path}/made', dog]\n")
    assert read_dataset(images=folder, annotations=names).class_names == (f"{tmp_path}/made", "dog")
    assert not (tmp_path / "made").exists()


def test_a_growing_yaml_is_not_expanded(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    names.write_text(f"a: &a [x, x]\n{bomb}names: [cat, *i]\n")
    with pytest.raises(DataError, match="1 name that is not a whole number and a text"):
        read_dataset(images=folder, annotations=names)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    with pytest.raises(DataError, match="expected images in"):
        read_dataset(images=tmp_path / "labels", annotations=names)
    with pytest.raises(DataError, match=r"expected a folder of images, got no folder at .*none"):
        read_dataset(images=tmp_path / "none", annotations=names)
    names.unlink()
    with pytest.raises(DataError, match=r"expected class names in data.yaml or data.yml or classes.txt near"):
        read_dataset(images=folder, annotations=tmp_path / "labels")
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(DataError, match="expected one class name a line, got none"):
        read_dataset(images=folder, annotations=tmp_path / "classes.txt")
    for label in (tmp_path / "labels").iterdir():
        label.unlink()
    with pytest.raises(DataError, match=r"expected label files \(photo.txt\) for the 2 images"):
        read_dataset(images=folder, annotations=tmp_path / "classes.txt")


def label_studio(root: Path, *, labels: str = "cb06a1b2-", images: str = "cb06a1b2-") -> None:
    """What Label Studio exports: classes.txt, notes.json, images/, labels/."""
    root.mkdir()
    photos = two_photos()
    write_yolo(root, photos)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}')
    for photo in photos:
        path = root / "images" / photo.name
        path.rename(path.with_name(f"{images}{path.name}"))
        label = (root / "labels" / photo.name).with_suffix(".txt")
        label.rename(label.with_name(f"{labels}{label.name}"))


@pytest.mark.parametrize("prefixes", [("cb06a1b2-", "cb06a1b2-"), ("cb06a1b2-", ""), ("", "0a1b2c3d-")])
@pytest.mark.parametrize("given", ["images", "images, labels", "root", "root, classes"])
def test_label_studios_export_as_it_is(tmp_path: Path, given: str, prefixes: tuple[str, str]) -> None:
    root = tmp_path / "export"
    label_studio(root, labels=prefixes[0], images=prefixes[1])
    images, _, annotations = given.partition(", ")
    dataset = read_dataset(
        images=root if images == "root" else root / "images",
        annotations={"": None, "labels": root / "labels", "classes": root / "classes.txt"}[annotations],
    )
    assert dataset.class_counts().tolist() == [1, 2, 0]
    assert [len(record.classes) for record in dataset.records] == [2, 1]
    told = dataset.repairs.get("label files found under another name", 0)
    assert told == (0 if prefixes[0] == prefixes[1] else 2)


def test_parts_of_a_set_by_its_root(tmp_path: Path) -> None:
    for part, photo in zip(("train", "valid"), two_photos(), strict=True):
        (tmp_path / part).mkdir()
        write_yolo(tmp_path / part, [photo])
        (tmp_path / part / "data.yaml").rename(tmp_path / "data.yaml")
    dataset = read_dataset(images=tmp_path, annotations=tmp_path / "data.yaml")
    assert dataset.class_counts().tolist() == [1, 2, 0]


def test_endings_in_capitals_and_hidden_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, names = write_yolo(tmp_path, two_photos())
    (folder / "a.png").rename(folder / "A.PNG")
    (tmp_path / "labels" / "b.txt").rename(tmp_path / "labels" / "B.TXT")
    (folder / "._a.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "labels" / "._a.txt").write_bytes(b"\0\5\26\7")
    dataset = read_dataset(images=folder, annotations=names)
    assert dataset.class_counts().tolist() == [1, 2, 0]
    assert "skipped 1 hidden file (first: ._a.png)" in caplog.text


def test_two_photos_that_differ_in_case_keep_their_labels(tmp_path: Path) -> None:
    photos = [*two_photos(), Photo("A.png", (10, 10), [("cat", 1, 1, 5, 5, False)])]
    folder, names = write_yolo(tmp_path, photos)
    if len(list(folder.iterdir())) == 3:  # a disk that tells them apart
        found = boxes_of(read_dataset(images=folder, annotations=names))
        assert (len(found["a.png"]), len(found["A.png"])) == (2, 1)
