"""Images with captions or tags: what is read from JSON and tables, and what is refused."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from cora.data.caption_nouns import english_nouns
from cora.data.captions import NamedPhotos, folder_photos, read_captions
from cora.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "more/c.jpg"):
        (folder / name).write_bytes(b"")  # captions are read without opening an image
    return folder


def table(images: Path, text: str, name: str = "captions.csv", **options: Any) -> NamedPhotos:
    path = images.parent / name
    path.write_text(text, encoding="utf-8")
    return read_captions(path, images=images, **options)


def names(found: NamedPhotos) -> dict[str, dict[str, tuple[int, ...]]]:
    return {photo.file_name: dict(photo.names) for photo in found.photos}


def coco() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg"},
            {"id": 9, "file_name": "more/c.jpg"},
            {"id": 11, "file_name": "b.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A dog and a cat."},
            {"id": 2, "image_id": 9, "caption": "Two cups."},
            {"id": 3, "image_id": 7, "caption": "A dog on a bench"},
            {"id": 4, "image_id": 11, "caption": "It is raining"},
        ],
    }


def test_coco_captions_give_every_photo_its_own_names(images: Path) -> None:
    found = table(images, json.dumps(coco()), "captions.json")
    assert names(found) == {"a.jpg": {"dog": (1, 3), "cat": (1,), "bench": (3,)}, "more/c.jpg": {"cup": (2,)}}
    assert [photo.image_id for photo in found.photos] == [7, 9]
    assert found.photos[1].path == images / "more" / "c.jpg"
    assert (found.captions, found.nameless) == (4, 1)
    assert found.name_counts() == {"dog": 1, "cat": 1, "bench": 1, "cup": 1}


@pytest.mark.parametrize("header", ["", "file,text\n", "Image,Caption\n"])
def test_a_table_of_captions(images: Path, header: str) -> None:
    found = table(images, f'{header}a.jpg,"A dog, a cat"\nb.jpg,two cups\na.jpg,a bench\n')
    first = 2 if header else 1
    assert names(found) == {
        "a.jpg": {"dog": (first,), "cat": (first,), "bench": (first + 2,)},
        "b.jpg": {"cup": (first + 1,)},
    }
    assert [photo.image_id for photo in found.photos] == [1, 2]


def test_columns_may_stand_anywhere(images: Path) -> None:
    found = table(images, "id,caption,file_name\n5,a dog,a.jpg\n6,a cat,b.jpg\n")
    assert names(found) == {"a.jpg": {"dog": (2,)}, "b.jpg": {"cat": (3,)}}


def test_a_comma_without_quotes_does_not_cut_a_caption(images: Path) -> None:
    assert list(names(table(images, "a.jpg,A dog, sleeping, and a cat\n"))["a.jpg"]) == ["dog", "cat"]


def test_tabs_divide_a_tsv(images: Path) -> None:
    found = table(images, "a.jpg\tA dog, a cat\nb.jpg\ta cup\n", "captions.tsv")
    assert list(names(found)["a.jpg"]) == ["dog", "cat"]


@pytest.mark.parametrize("header", ["", "file,tags\n"])
def test_tags_are_names_by_themselves(images: Path, header: str) -> None:
    found = table(images, f"{header}a.jpg,Dogs;flux capacitor; dog\nb.jpg,watch\n")
    assert [list(found) for found in names(found).values()] == [["dog", "flux capacitor"], ["watch"]]


def test_what_texts_are_can_be_said(images: Path) -> None:
    text = "a.jpg,a dog; a cat\n"
    assert list(names(table(images, text))["a.jpg"]) == ["a dog", "a cat"]
    assert list(names(table(images, text, kind="captions"))["a.jpg"]) == ["dog", "cat"]
    assert list(names(table(images, "a.jpg,flux capacitor\n", kind="tags"))["a.jpg"]) == ["flux capacitor"]


def test_wanted_names_limit_captions_and_tags(images: Path) -> None:
    nouns = english_nouns(["Dog"])
    assert names(table(images, "a.jpg,dogs and cats\nb.jpg,a cup\n", nouns=nouns)) == {"a.jpg": {"Dog": (1,)}}
    found = table(images, "file,tags\na.jpg,dogs;cat\nb.jpg,cup\n", nouns=nouns)
    assert (names(found), found.nameless) == ({"a.jpg": {"Dog": (2,)}}, 1)


def test_a_byte_order_mark_does_no_harm(images: Path) -> None:
    path = images.parent / "captions.csv"
    path.write_bytes(codecs.BOM_UTF8 + b"file,text\na.jpg,a dog\n")
    assert names(read_captions(path, images=images)) == {"a.jpg": {"dog": (2,)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\n , \n", "got an empty file"),
        (b"a.jpg;a dog\nb.jpg;a cat\n", "got one column in all 2 lines; put a comma between"),
        ("a.jpg,a dog at a café\n".encode("cp1252"), "in UTF-8, got other bytes; save it as UTF-8"),
        ("a.jpg,a dog\n".encode("utf-16"), "in UTF-8, got other bytes"),
        (b"a.jpg,\nb.jpg,a cat\n", r"1 empty caption \(first: line 1\)"),
        (b",a dog\nb.jpg,a cat\n", r"1 line without a file name \(first: line 1\)"),
        (b"file,id,text\na.jpg\nb.jpg,1,a cat\n", r"1 line without file and text \(first: line 2\)"),
        (b"z.jpg,a dog\nz.jpg,a dog\ny.jpg,a cat\n", r"2 missing image files \(first: z.jpg\)"),
        (b"../gone.jpg,a dog\n", "1 file name that leaves the image folder"),
        (b"file,tags\na.jpg,one two three four five six seven eight nine\n", "1 tag of more than 8 words"),
        (b"a.jpg,it rains\nb.jpg,quickly\n", "expected captions that name things, got none in the 2"),
        (b'{"images": [', "cannot be read as JSON"),
        (b"[]", "expected COCO captions, an object with the lists"),
        (b'{"images": [], "annotations": [{"bbox": [1, 2, 3, 4]}]}', "expected a caption in every annotation"),
        (b'{"images": [], "annotations": []}', "expected captions that name things, got none in the 0"),
    ],
)
def test_bad_files_are_refused(images: Path, content: bytes, message: str) -> None:
    path = images.parent / "captions.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(path, images=images)


def test_faults_of_a_coco_file_are_counted_in_one_message_and_can_be_skipped(images: Path) -> None:
    content = coco()
    content["images"] += [{"id": 7, "file_name": "b2.jpg"}, {"id": 12}, {"id": 13, "file_name": "a.jpg"}]
    content["annotations"] += [
        {"id": 1, "image_id": 7, "caption": "a dog"},
        {"id": 5, "image_id": 99, "caption": "a dog"},
        {"id": 6, "image_id": 7, "caption": "  "},
        {"id": 7, "image_id": 7},
        {"id": "x", "image_id": 7, "caption": "a dog"},
    ]
    with pytest.raises(DataError) as error:
        table(images, json.dumps(content), "captions.json")
    for kind in (
        "1 duplicate image id (first: 7)",
        "1 image without id or file_name",
        "1 file name of two images (first: a.jpg)",
        "1 duplicate caption id (first: 1)",
        "1 caption of an unknown image (first: 5)",
        "1 empty caption (first: caption 6)",
        "1 annotation without a caption",
        "1 caption id that is no whole number",
    ):
        assert kind in str(error.value)
    found = table(images, json.dumps(content), "captions.json", skip_bad=True)
    assert names(found) == names(table(images, json.dumps(coco()), "captions.json"))
    assert sum(found.left_out.values()) == 8


def test_missing_files_and_folders_are_named(images: Path) -> None:
    with pytest.raises(DataError, match=r"no caption file at .*none.csv"):
        read_captions(images / "none.csv", images=images)
    table(images, "a.jpg,a dog\n")
    with pytest.raises(DataError, match=r"expected a folder of images, .*nowhere"):
        read_captions(images.parent / "captions.csv", images=images / "nowhere")


def test_a_class_list_names_every_photo_of_a_folder(images: Path) -> None:
    photos = folder_photos(images, [images / "a.jpg", images / "more" / "c.jpg"], ["dog", "cat"])
    assert [(photo.image_id, photo.file_name) for photo in photos] == [(1, "a.jpg"), (2, "more/c.jpg")]
    assert photos[0].names == photos[1].names == {"dog": (), "cat": ()}
