"""Formats are recognised by what is given; whatever was read, images stay on disk."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cora.data.read import Format, read_dataset
from cora.data.shards import write_shards
from cora.errors import DataError
from tests.data.writers import (
    Photo,
    coco_content,
    same_boxes,
    two_photos,
    write_coco,
    write_photos,
    write_voc,
    write_yolo,
)

WRITERS: dict[str, Callable[[Path, list[Photo]], tuple[Path, Path]]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("given", ["annotations", "images alone", "format", "format alone"])
def test_formats_are_recognised(tmp_path: Path, kind: str, given: str) -> None:
    images, annotations = WRITERS[kind](tmp_path, two_photos())
    dataset = read_dataset(
        images=images,
        annotations=None if "alone" in given else annotations,
        format=kind if "format" in given else "auto",  # type: ignore[arg-type]
    )
    assert dataset.format == kind
    same_boxes(dataset, two_photos())


@pytest.mark.parametrize("format", ["auto", "shards"])
def test_shards_are_recognised(tmp_path: Path, format: Format) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    folder = tmp_path / "shards"
    write_shards(read_dataset(images=images, annotations=annotations), folder=folder, seed=None)
    dataset = read_dataset(images=folder, format=format)
    same_boxes(dataset, two_photos())
    assert dataset[0][0].size == (40, 20)
    assert read_dataset(images=folder, format=format, class_names=["dog"]).class_names == ("dog",)
    with pytest.raises(DataError, match="lacks 1 of the 1 classes asked for: zebra"):
        read_dataset(images=folder, format=format, class_names=["zebra"])
    with pytest.raises(DataError, match=r"expected boxes of the classes traffic light, got none"):
        read_dataset(images=folder, format=format, class_names=["traffic light"])


def test_shards_hold_their_own_boxes(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    with pytest.raises(DataError, match=r"expected shards without annotations, .*annotations.json; leave these out"):
        read_dataset(images=images, annotations=annotations, format="shards")
    with pytest.raises(DataError, match=r"expected shards \(\*.tar\) in .*, got none"):
        read_dataset(images=images, format="shards")


@pytest.mark.parametrize("kind", WRITERS)
def test_anything_is_written_as_coco(tmp_path: Path, kind: str) -> None:
    images, annotations = WRITERS[kind](tmp_path, two_photos())
    dataset = read_dataset(images=images, annotations=annotations)
    path = tmp_path / "written.json"
    path.write_text(json.dumps(dataset.to_coco()))
    again = read_dataset(images=images, annotations=path)
    same_boxes(again, two_photos())
    assert again.class_names == dataset.class_names
    assert again.category_ids == dataset.category_ids
    assert [record.image_id for record in again.records] == [record.image_id for record in dataset.records]


@pytest.mark.parametrize("kind", WRITERS)
def test_photos_are_not_decoded_before_they_are_asked_for_nor_kept(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, annotations = WRITERS[kind](tmp_path, two_photos())
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
        dataset = read_dataset(images=images, annotations=annotations)
    image = dataset[0][0]
    assert image.size == (40, 20)
    alive = weakref.ref(image)
    del image
    gc.collect()
    assert alive() is None


def test_one_coco_file_among_the_photos_is_taken(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    annotations.rename(images / "_annotations.coco.json")
    same_boxes(read_dataset(images=images), two_photos())


def test_xml_among_the_photos_is_taken(tmp_path: Path) -> None:
    images, annotations = write_voc(tmp_path, two_photos())
    for path in annotations.iterdir():
        path.rename(images / path.name)
    same_boxes(read_dataset(images=images), two_photos())


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_found_and_what_is_not_named_is_told(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    images, annotations = WRITERS[kind](tmp_path, two_photos())
    read_dataset(images=images, annotations=annotations)
    assert not caplog.text
    write_photos(images, [Photo("more.png", (5, 6))])
    dataset = read_dataset(images=images)
    assert f"no annotations are named; those found are {tmp_path}" in caplog.text
    assert len(dataset) == (3 if kind == "yolo" else 2)  # YOLO takes an image without labels for background
    assert ("does not use 1 other image" in caplog.text) == (kind != "yolo")


def test_lvis_read_as_coco_by_name(tmp_path: Path) -> None:
    content = coco_content(two_photos())
    content["categories"][0]["frequency"] = "f"
    images, annotations = write_coco(tmp_path, two_photos(), content)
    assert read_dataset(images=images, annotations=annotations).format == "lvis"
    assert read_dataset(images=images, annotations=annotations, format="coco").format == "coco"


def test_several_candidates_are_listed(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    (tmp_path / "val.json").write_text(annotations.read_text())
    with pytest.raises(DataError, match=r"got 2: .*annotations.json, .*val.json; name the one that is meant"):
        read_dataset(images=images)
    (tmp_path / "val.json").unlink()
    write_yolo(tmp_path, two_photos())
    with pytest.raises(DataError, match=r"got 2: .*annotations.json, .*labels; name the one"):
        read_dataset(images=images)
    same_boxes(read_dataset(images=images, format="yolo"), two_photos())


def test_a_folder_with_both_kinds_of_files(tmp_path: Path) -> None:
    images, annotations = write_voc(tmp_path, two_photos())
    (annotations / "a.txt").write_text("0 .5 .5 .5 .5")
    with pytest.raises(DataError, match="got 2"):
        read_dataset(images=images, annotations=annotations)
    same_boxes(read_dataset(images=images, annotations=annotations, format="voc"), two_photos())


@pytest.mark.parametrize("kind", [None, "coco", "voc"])
def test_nothing_there(tmp_path: Path, kind: str | None) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    annotations.unlink()
    with pytest.raises(DataError, match=r"in or beside .*, got none; name the annotations"):
        read_dataset(images=images, format=kind or "auto")  # type: ignore[arg-type]


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    images, annotations = write_voc(tmp_path, two_photos())
    with pytest.raises(DataError, match=r"a.xml; name the folder it lies in"):
        read_dataset(images=images, annotations=annotations / "a.xml")
    with pytest.raises(DataError, match=r"a.png; name another file"):
        read_dataset(images=images, annotations=images / "a.png")
    with pytest.raises(DataError, match="no annotation file at"):
        read_dataset(images=images, annotations=tmp_path / "none.json")
    with pytest.raises(DataError, match=r"in .*JPEGImages, got none"):
        read_dataset(images=images, annotations=images)
    with pytest.raises(DataError, match=r"expected a JSON file .*, got a folder"):
        read_dataset(images=images, annotations=annotations, format="coco")
    with pytest.raises(DataError, match=r"expected a folder of Pascal VOC XML files, got a file"):
        read_dataset(images=images, annotations=annotations / "a.xml", format="voc")
    with pytest.raises(DataError, match="format must be one of auto, coco, lvis, voc, yolo, shards, got 'csv'"):
        read_dataset(images=images, annotations=annotations, format="csv")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"expected a folder of images, got no folder at .*none"):
        read_dataset(images=tmp_path / "none")
    with pytest.raises(DataError, match="got none in"):
        read_dataset(images=images, annotations=tmp_path / "none", format="voc")


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "photos", "boxes", "classes"),
    [("fruit", 23, 33, 3), ("blood_cells", 182, 2459, 3), ("steel_defects", 300, 705, 6), ("aerial", 8, 133, 9)],
)
def test_sets_of_other_domains(shared: Path, name: str, photos: int, boxes: int, classes: int) -> None:
    dataset = read_dataset(images=shared / "kit" / name / "images")
    assert (len(dataset), len(dataset.class_names)) == (photos, classes)
    crowds = sum(len(record.crowd_classes) for record in dataset.records)
    twice = dataset.repairs.get("boxes given twice, kept once", 0)
    assert int(dataset.class_counts().sum()) + crowds + twice == boxes
    assert not dataset.dropped


@pytest.mark.needs_shared
def test_lvis_v05(shared: Path) -> None:
    kit = shared / "kit"
    dataset = read_dataset(
        images=kit / "coco_ovd_mini" / "val", annotations=kit / "lvis" / "val_subset_v05.json", skip_bad=True
    )
    assert (dataset.format, len(dataset), len(dataset.class_names)) == ("lvis", 5, 1230)
    assert dataset.dropped["missing image files"] == 24
    assert all(record.negative_classes for record in dataset.records)
    assert dataset.frequencies["acorn"] == "r"


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "gif", "tif"])
@pytest.mark.parametrize("kept", [0.6, 1.0])
def test_images_that_were_cut_are_noticed_before_they_are_loaded(tmp_path: Path, ending: str, kept: float) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    content = json.loads(annotations.read_text())
    entry = content["images"][0]
    old = images / entry["file_name"]
    with Image.open(old) as photo:
        noise = Image.effect_noise(photo.size, 90).convert("RGB")
    entry["file_name"] = f"cut.{ending}"
    noise.save(images / entry["file_name"])
    data = (images / entry["file_name"]).read_bytes()
    (images / entry["file_name"]).write_bytes(data[: int(len(data) * kept)])
    old.unlink()
    annotations.write_text(json.dumps(content))
    dataset = read_dataset(images=images, annotations=annotations, skip_bad=True)
    assert dataset.dropped.get("images that cannot be read", 0) == (kept < 1)
    assert [image.size for image, _, _ in map(dataset.__getitem__, range(len(dataset)))]


def test_a_whole_file_with_something_behind_it_stays(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, two_photos())
    for path in images.iterdir():
        path.write_bytes(path.read_bytes() + b"what a phone adds")
    assert not read_dataset(images=images, annotations=annotations).dropped


def test_boxes_in_fractions_are_no_pixels(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (100, 80)).save(images / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.5, 0.25]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    annotations = tmp_path / "ann.json"
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"expected boxes in pixels, got none .*; multiply fractions by"):
        read_dataset(images=images, annotations=annotations)
    content["annotations"][0]["bbox"] = [0.5, 0.5, 10, 10]  # type: ignore[index]
    annotations.write_text(json.dumps(content))
    assert len(read_dataset(images=images, annotations=annotations)) == 1
