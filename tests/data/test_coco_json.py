"""COCO files good and bad: refused with counts, or what is bad left out and counted."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from PIL import Image

from cora.data.coco import CocoDataset
from cora.data.problems import of_kind
from cora.data.read import read_dataset
from cora.errors import DataError
from tests.data.writers import NAMES, Photo, boxes_of, coco_content, random_photos, same_boxes, two_photos, write_coco

Change = Callable[[dict[str, Any]], object]


def image(**changes: Any) -> Change:
    return lambda content: content["images"][0].update(changes)


def box(**changes: Any) -> Change:
    return lambda content: content["annotations"][0].update(changes)


def more(key: str, entry: object) -> Change:
    return lambda content: content[key].append(entry)


#: change of the file, what is said about it, boxes that are left when it is left out (3 in the sound file)
BAD: dict[str, tuple[Change, str, int]] = {
    "missing photo": (image(file_name="gone.png"), r"1 missing image file \(first: gone.png\)", 1),
    "parent folder": (image(file_name="../out.png"), r"1 file name that leaves the image folder \(first: ../out", 1),
    "absolute name": (image(file_name="/etc/passwd"), "1 file name that leaves the image folder", 1),
    "name is a number": (image(file_name=3), r"1 file name that is no text \(first: 3\)", 1),
    "no name": (lambda c: c["images"][0].pop("file_name"), "1 image without id or file_name", 1),
    "image is text": (more("images", "a.png"), r"1 image without id or .* \(first: entry 2\)", 3),
    "duplicate image": (lambda c: c["images"].append(c["images"][0]), "1 duplicate image id", 3),
    "image id is text": (more("images", {"id": [], "file_name": "a.png", "width": 1, "height": 1}), "1 image id", 3),
    "no area": (image(width=0), "1 image without an area", 1),
    "width is negative": (image(width=-40), "1 image without an area", 1),
    "box as words": (box(bbox="5, 5, 9, 9"), "1 box that is not four finite numbers", 2),
    "box as an object": (box(bbox={"x": 1, "y": 2}), "1 box that is not four finite numbers", 2),
    "category by name": (box(category_id="no such"), r"1 unknown category id \(first: annotation 1: no such\)", 2),
    "crowd as a list": (box(iscrowd=[]), r"1 value of iscrowd that is neither 0 nor 1 \(first: .* 1: \[\]\)", 2),
    "huge width": (image(width=10**400), "1 image without an area", 1),
    "other size": (image(width=41), "1 image of another size than its file says .first: a.png: 41x20, is 40x20", 1),
    "crowd or not": (box(iscrowd="maybe"), r"1 value of iscrowd that is neither 0 nor 1 \(first: .* 1: maybe\)", 2),
    "unknown category": (box(category_id=99), r"1 unknown category id \(first: annotation 1: 99\)", 2),
    "category is a list": (box(category_id=[1]), "1 unknown category id", 2),
    "unknown image": (box(image_id=5), r"1 annotation of an unknown image \(first: 1\)", 2),
    "image id is a list": (box(image_id=[]), "1 annotation of an unknown image", 2),
    "duplicate box": (lambda c: c["annotations"].append(c["annotations"][0]), "1 duplicate annotation id", 3),
    "annotation id is a list": (box(id=[]), "1 annotation id that is no number", 2),
    "no bbox": (lambda c: c["annotations"][0].pop("bbox"), "1 annotation without image_id, category_id, or bbox", 2),
    "three numbers": (box(bbox=[1, 2, 3]), "1 box that is not four finite numbers", 2),
    "not a number": (box(bbox=[1, 2, float("nan"), 3]), "1 box that is not four finite numbers", 2),
    "huge number": (box(bbox=[1, 2, 10**400, 3]), "1 box that is not four finite numbers", 2),
    "text": (box(bbox=["1", 2, 3, 4]), "1 box that is not four finite numbers", 2),
    "no width": (box(bbox=[1, 2, 0, 3]), r"1 box without an area \(first: annotation 1\)", 2),
    "negative height": (box(bbox=[1, 9, 3, -3]), "1 box without an area", 2),
    "outside": (box(bbox=[50, 2, 3, 3]), r"1 box outside its image \(first: annotation 1\)", 2),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_entries_are_refused_or_left_out(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    change, message, left = BAD[kind]
    content = coco_content(two_photos())
    change(content)
    Image.new("1", (40, 20)).save(tmp_path / "out.png")
    folder, path = write_coco(tmp_path, two_photos(), content)
    with pytest.raises(DataError, match=message) as error:
        read_dataset(images=folder, annotations=path)
    assert "--skip-bad" in str(error.value)
    assert "\n" not in str(error.value)
    dataset = read_dataset(images=folder, annotations=path, skip_bad=True)
    assert int(dataset.class_counts().sum()) == left
    assert sum(dataset.dropped.values()) >= 1
    for kind_dropped, count in dataset.dropped.items():
        assert of_kind(count, kind_dropped) in caplog.text


FAULTS: dict[str, tuple[Change, str]] = {
    "duplicate category id": (more("categories", {"id": 7, "name": "bus"}), r"1 duplicate category id \(first: 7\)"),
    "category without name": (more("categories", {"id": 8}), "1 category without id or name"),
    "category is text": (more("categories", "bus"), "1 category without id or name"),
    "category id is a list": (more("categories", {"id": [], "name": "bus"}), "1 category without id or name"),
    "blank name": (more("categories", {"id": 8, "name": " "}), "1 blank class name"),
    "no annotations": (lambda c: c["annotations"].clear(), r"expected boxes .*, got none in 2 images"),
    "no images": (lambda c: (c["images"].clear(), c["annotations"].clear()), "expected images, got none"),
    "no categories": (lambda c: (c["categories"].clear(), c["annotations"].clear()), "at least one class name"),
    "only crowds": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"]],
        r"expected boxes \(other than of crowds",
    ),
    "images is no list": (lambda c: c.update(images={}), "expected a COCO object with the lists"),
    "no list": (lambda c: c.pop("categories"), "expected a COCO object with the lists"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_the_whole_file_are_refused_in_any_case(tmp_path: Path, kind: str) -> None:
    change, message = FAULTS[kind]
    content = coco_content(two_photos())
    change(content)
    folder, path = write_coco(tmp_path, two_photos(), content)
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=message):
            read_dataset(images=folder, annotations=path, skip_bad=skip_bad)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}", b'{"images": []} x']
)
def test_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read as JSON|in UTF-8|an empty file"):
        read_dataset(images=tmp_path, annotations=path)


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = write_coco(tmp_path, two_photos())
    monkeypatch.setattr("cora.data.coco_content.MAX_JSON_BYTES", 100)
    with pytest.raises(DataError, match="of at most 100 bytes, got"):
        read_dataset(images=folder, annotations=path)


def test_a_damaged_photo_is_named_before_training(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos())
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 image that cannot be read .*a\.png"):
        read_dataset(images=folder, annotations=path)
    assert len(read_dataset(images=folder, annotations=path, check_photos=False)) == 2
    dataset = read_dataset(images=folder, annotations=path, skip_bad=True)
    assert dataset.dropped == {"images that cannot be read": 1, "boxes of images left out": 2}


def test_masks_are_not_kept(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    for entry in content["annotations"]:
        entry["segmentation"] = [[0.0, 0.0, 1.0, 1.0, 0.0, 1.0]]
    folder, path = write_coco(tmp_path, two_photos(), content)
    same_boxes(read_dataset(images=folder, annotations=path), two_photos())


def test_boxes_of_classes_not_asked_for_need_not_be_sound(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    content["annotations"][0]["bbox"] = [1, 1, 0, 0]
    folder, path = write_coco(tmp_path, two_photos(), content)
    assert read_dataset(images=folder, annotations=path, class_names=["dog"]).class_counts().tolist() == [2]


def test_no_box_of_the_classes_asked_for(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos())
    with pytest.raises(DataError, match=r"expected boxes of the classes traffic light, got none; it has.*: cat, dog"):
        read_dataset(images=folder, annotations=path, class_names=["traffic light"])


@settings(max_examples=25, deadline=None)
@given(photos=random_photos(crowds=True))
def test_boxes_survive_writing_and_reading(photos: list[Photo]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, path = write_coco(Path(root), photos)
        dataset = read_dataset(images=folder, annotations=path)
        same_boxes(dataset, photos)
        path.write_text(json.dumps(dataset.to_coco()))
        again = read_dataset(images=folder, annotations=path)
    same_boxes(again, photos)
    assert again.to_coco() == dataset.to_coco()


def test_to_coco_keeps_ids_and_folders(tmp_path: Path) -> None:
    photos = [Photo("part/a.png", (20, 40), [("dog", 1, 2, 4, 6, True), ("cat", 10, 5, 30, 15, False)])]
    folder, path = write_coco(tmp_path, photos)
    content = read_dataset(images=folder, annotations=path, class_names=["dog", "cat"]).to_coco()
    assert content == {
        "images": [{"id": 100, "file_name": "part/a.png", "width": 40, "height": 20}],
        "annotations": [
            {"id": 1, "image_id": 100, "category_id": 7, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 100, "category_id": 14, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1},
        ],
        "categories": [{"id": 14, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def test_photos_without_boxes_stay_unless_unwanted(tmp_path: Path) -> None:
    photos = [*two_photos(), Photo("c.png", (5, 5))]
    folder, path = write_coco(tmp_path, photos)
    dataset = read_dataset(images=folder, annotations=path)
    assert boxes_of(dataset)["c.png"] == []
    assert (dataset.class_names, dataset.format) == (NAMES, "coco")
    assert len(read_dataset(images=folder, annotations=path, keep_empty=False)) == 2


def set_of(content: dict[str, Any], tmp_path: Path) -> CocoDataset:
    folder, path = write_coco(tmp_path, two_photos(), content)
    return read_dataset(images=folder, annotations=path)


def all_of(key: str, change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda content: [change(entry) for entry in content[key]]


def outlined(entry: dict[str, Any]) -> None:
    x, y, w, h = entry.pop("bbox")
    entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def ids(content: dict[str, Any], of: Callable[[int], object]) -> None:
    for part in ("images", "categories"):
        for entry in content[part]:
            entry["id"] = of(entry["id"])
    for entry in content["annotations"]:
        entry["image_id"], entry["category_id"] = of(entry["image_id"]), of(entry["category_id"])


#: change that leaves what the file says, and what is told of it, with the number
SAME: dict[str, tuple[Change, dict[str, int]]] = {
    "no sizes": (
        all_of("images", lambda e: (e.pop("width"), e.pop("height"))),
        {"images without width or height, measured": 2},
    ),
    "sizes of null": (
        all_of("images", lambda e: e.update(width=None)),
        {"images without width or height, measured": 2},
    ),
    "outlines only": (all_of("annotations", outlined), {"objects without a box, given that of their outline": 3}),
    "boxes of null": (
        all_of("annotations", lambda e: (outlined(e), e.update(bbox=None))),
        {"objects without a box, given that of their outline": 3},
    ),
    "ids in quotes": (
        lambda c: ids(c, str),
        {"image ids that are no whole numbers, numbered": 2, "category ids that are no whole numbers, numbered": 3},
    ),
    "words as ids": (
        lambda c: ids(c, lambda number: f"n{number}"),
        {"image ids that are no whole numbers, numbered": 2, "category ids that are no whole numbers, numbered": 3},
    ),
    "sizes as text": (
        all_of("images", lambda e: e.update(width=str(e["width"]), height=f"{e['height']} px")),
        {"images without width or height, measured": 2},
    ),
    "names of a bucket": (
        all_of("images", lambda e: e.update(file_name=f"gs://bucket/set/{e['file_name']}")),
        {"images found under another name": 2},
    ),
    "names with blanks behind": (
        all_of("images", lambda e: e.update(file_name=f"{e['file_name']} ")),
        {"images found under another name": 2},
    ),
    "names without an ending": (
        all_of("images", lambda e: e.update(file_name=Path(e["file_name"]).stem)),
        {"images found under another name": 2},
    ),
    "ids with a point": (
        lambda c: ids(c, float),
        {"image ids that are no whole numbers, numbered": 2, "category ids that are no whole numbers, numbered": 3},
    ),
    "points in the boxes alone": (
        all_of("annotations", lambda e: e.update(image_id=float(e["image_id"]), category_id=float(e["category_id"]))),
        {},
    ),
    "quotes in the boxes alone": (all_of("annotations", lambda e: e.update(image_id=str(e["image_id"]))), {}),
    "no crowds, as text": (all_of("annotations", lambda e: e.update(iscrowd="0")), {}),
    "no crowds, as words": (all_of("annotations", lambda e: e.update(iscrowd="false")), {}),
    "no crowds, as null": (all_of("annotations", lambda e: e.update(iscrowd=None)), {}),
    "no ids of boxes": (all_of("annotations", lambda e: e.update(id=None)), {}),
    "names with blanks": (all_of("categories", lambda e: e.update(name=f" {e['name']} ")), {}),
    "folders": (
        all_of("images", lambda e: e.update(file_name=f"x/{e['file_name']}")),
        {"images found under another name": 2},
    ),
    "boxes twice": (
        lambda c: c["annotations"].extend({**e, "id": e["id"] + 50} for e in list(c["annotations"])),
        {"boxes given twice, kept once": 3},
    ),
    "images twice": (
        lambda c: (
            c["images"].extend({**e, "id": e["id"] + 50} for e in list(c["images"])),
            c["annotations"][0].update(image_id=c["annotations"][0]["image_id"] + 50),
        ),
        {"images listed twice, merged": 2},
    ),
    "a parent of all": (
        lambda c: (
            all_of("categories", lambda e: e.update(supercategory="things"))(c),
            c["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"}),
        ),
        {"classes without a box that only group others, left out": 1},
    ),
    "parents of parents": (
        lambda c: (
            all_of("categories", lambda e: e.update(supercategory="small things"))(c),
            c["categories"].insert(0, {"id": 0, "name": "Small_Things", "supercategory": "things"}),
            c["categories"].insert(0, {"id": 1, "name": "things", "supercategory": ""}),
        ),
        {"classes without a box that only group others, left out": 2},
    ),
    "a parent called like a class": (
        lambda c: (
            all_of("categories", lambda e: e.update(supercategory="Cat"))(c),
            c["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"}),
        ),
        {"classes without a box that only group others, left out": 1},
    ),
    "a class twice": (
        lambda c: (
            c["categories"].append({"id": 99, "name": "Cat_"}),
            c["annotations"][0].update(category_id=99),
        ),
        {"classes named like another but for case and blanks, merged into it": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_files_that_say_the_same_in_another_way(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    change, told = SAME[kind]
    content = coco_content(two_photos())
    change(content)
    dataset = set_of(content, tmp_path)
    found, expected = boxes_of(dataset), boxes_of(set_of(coco_content(two_photos()), tmp_path / "plain"))
    assert {name: sorted(boxes) for name, boxes in found.items()} == {n: sorted(b) for n, b in expected.items()}
    assert dataset.class_names == NAMES
    assert dataset.repairs == told
    for what, count in told.items():
        assert f"{of_kind(count, what)} (first: " in caplog.text
    assert not dataset.dropped


@pytest.mark.parametrize("value", ["1", "true", True, 1, 1.0])
def test_crowds_are_told_by_any_truth_value(tmp_path: Path, value: object) -> None:
    content = coco_content(two_photos())
    content["annotations"][0]["iscrowd"] = value
    assert [len(record.crowd_classes) for record in set_of(content, tmp_path).records] == [1, 0]


def test_a_parent_with_boxes_or_asked_for_is_a_class(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    for entry in content["categories"]:
        entry["supercategory"] = "things"
    content["categories"].append({"id": 99, "name": "things", "supercategory": "none"})
    folder, path = write_coco(tmp_path, two_photos(), content)
    assert read_dataset(images=folder, annotations=path).class_names == NAMES
    asked = read_dataset(images=folder, annotations=path, class_names=["things", "cat"])
    assert asked.class_names == ("things", "cat")
    content["annotations"][0]["category_id"] = 99
    assert set_of(content, tmp_path).class_names == (*NAMES, "things")


def test_one_image_with_two_sizes_is_refused(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    content["images"].append({**content["images"][0], "id": 500, "width": 41})
    with pytest.raises(DataError, match=r"1 image listed twice, with different sizes \(first: a.png: ids 100, 500\)"):
        set_of(content, tmp_path)


def test_texts_that_differ_are_different_ids(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    content["images"][0]["id"], content["images"][1]["id"] = "7", "007"
    for entry in content["annotations"]:
        entry["image_id"] = "7" if entry["image_id"] == 100 else "007"
    dataset = set_of(content, tmp_path)
    assert [record.image_id for record in dataset.records] == [7, 1]
    same_boxes(dataset, two_photos())
