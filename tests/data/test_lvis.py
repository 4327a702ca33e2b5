import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.data.problems import of_kind
from cora.data.read import read_dataset
from cora.errors import DataError
from tests.data.writers import coco_content, same_boxes, two_photos, write_coco, write_photos


def lvis_content() -> dict[str, Any]:
    """As LVIS v1: no file names, lists of negative and not exhaustive classes, frequencies, no crowds."""
    content = coco_content(two_photos())
    for entry, part, negative, partial in zip(
        content["images"], ("train2017", "val2017"), ([21], [7, 21]), ([7], []), strict=True
    ):
        entry["coco_url"] = f"http://images.example.org/{part}/{entry.pop('file_name')}"
        entry["neg_category_ids"], entry["not_exhaustive_category_ids"] = negative, partial
    for entry, frequency in zip(content["categories"], "fcr", strict=True):
        entry["frequency"] = frequency
    for entry in content["annotations"]:
        del entry["iscrowd"]
    return content


def test_negative_and_not_exhaustive_classes(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos(), lvis_content())
    dataset = read_dataset(images=folder, annotations=path)
    assert dataset.format == "lvis"
    same_boxes(dataset, two_photos())
    assert [record.negative_classes for record in dataset.records] == [(2,), (0, 2)]
    assert [record.not_exhaustive_classes for record in dataset.records] == [(0,), ()]
    assert dataset.frequencies == {"cat": "f", "dog": "c", "traffic light": "r"}


def test_blanks_around_a_class_name_lose_no_frequency(tmp_path: Path) -> None:
    content = lvis_content()
    content["categories"][0]["name"] += " "
    folder, path = write_coco(tmp_path, two_photos(), content)
    dataset = read_dataset(images=folder, annotations=path)
    assert dataset.frequencies == {"cat": "f", "dog": "c", "traffic light": "r"}


def test_lists_follow_the_names_asked_for(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos(), lvis_content())
    dataset = read_dataset(images=folder, annotations=path, class_names=["traffic light", "dog"])
    assert [record.negative_classes for record in dataset.records] == [(0,), (0,)]
    assert [record.not_exhaustive_classes for record in dataset.records] == [(), ()]


def test_photos_lie_in_the_folders_of_coco_or_in_one(tmp_path: Path) -> None:
    first, second = two_photos()
    _, path = write_coco(tmp_path, two_photos(), lvis_content())
    coco = tmp_path / "coco"
    write_photos(coco / "train2017", [first])
    write_photos(coco / "val2017", [second])
    names = [record.path.relative_to(coco).as_posix() for record in read_dataset(images=coco, annotations=path).records]
    assert names == ["train2017/a.png", "val2017/b.png"]


def test_the_url_counts_before_the_file_name_of_v05(tmp_path: Path) -> None:
    content = lvis_content()
    content["images"][0]["file_name"] = "COCO_val2014_a.png"
    folder, path = write_coco(tmp_path, two_photos(), content)
    same_boxes(read_dataset(images=folder, annotations=path), two_photos())
    (folder / "a.png").rename(folder / "COCO_val2014_a.png")
    assert read_dataset(images=folder, annotations=path).records[0].path.name == "COCO_val2014_a.png"
    (folder / "COCO_val2014_a.png").unlink()
    with pytest.raises(DataError, match=r"1 missing image file \(first: a.png\)"):
        read_dataset(images=folder, annotations=path)


@pytest.mark.parametrize("url", ["", 5, "http://x/../../a.png", "a.png", "/", "http://[bad"])
def test_odd_urls(tmp_path: Path, url: object) -> None:
    content = lvis_content()
    content["images"][0].update(coco_url=url, file_name="a.png")
    folder, path = write_coco(tmp_path, two_photos(), content)
    assert read_dataset(images=folder, annotations=path).records[0].path == folder / "a.png"


def test_a_url_leads_nowhere_outside(tmp_path: Path) -> None:
    content = lvis_content()
    content["images"][0]["coco_url"] = "http://x/../.."
    folder, path = write_coco(tmp_path, two_photos(), content)
    with pytest.raises(DataError, match="1 file name that leaves the image folder"):
        read_dataset(images=folder, annotations=path)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([99], "with unknown category ids"), (["7", []], "with unknown category ids"), ("7", "that are no lists")],
)
def test_bad_lists(tmp_path: Path, numbers: object, message: str) -> None:
    content = lvis_content()
    content["images"][1]["neg_category_ids"] = numbers
    folder, path = write_coco(tmp_path, two_photos(), content)
    with pytest.raises(DataError, match=rf"{of_kind(1, f'neg_category_ids {message}')} \(first: image 101"):
        read_dataset(images=folder, annotations=path)
    dataset = read_dataset(images=folder, annotations=path, skip_bad=True)
    assert [record.negative_classes for record in dataset.records] == [(2,), ()]
    assert dataset.dropped == {f"neg_category_ids {message}": 1}


def test_malformed_images_are_counted_as_in_coco(tmp_path: Path) -> None:
    content = lvis_content()
    content["images"] += ["text", {"id": [], "coco_url": "http://x/y/a.png", "width": 1, "height": 1}]
    folder, path = write_coco(tmp_path, two_photos(), content)
    with pytest.raises(DataError, match=r"1 image without id.*1 image id that is neither a whole number"):
        read_dataset(images=folder, annotations=path)
    same_boxes(read_dataset(images=folder, annotations=path, skip_bad=True), two_photos())


def test_written_as_coco_it_reads_the_same(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos(), lvis_content())
    dataset = read_dataset(images=folder, annotations=path)
    path.write_text(json.dumps(dataset.to_coco()))
    again = read_dataset(images=folder, annotations=path)
    assert again.format == "lvis"
    assert again.to_coco() == dataset.to_coco()
    assert again.frequencies == dataset.frequencies
    assert [r.negative_classes for r in again.records] == [r.negative_classes for r in dataset.records]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a.png", 7, 100]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), part=st.sampled_from(["images", "annotations", "categories"]), skip_bad=st.booleans())
def test_whatever_stands_in_a_field_no_other_error_comes_out(data: st.DataObject, part: str, skip_bad: bool) -> None:
    content = lvis_content()
    for _ in range(2):
        entries = content[part]
        number = data.draw(st.integers(0, len(entries) - 1))
        if isinstance(entries[number], dict) and entries[number] and data.draw(st.booleans()):
            entries[number][data.draw(st.sampled_from(sorted(entries[number])))] = data.draw(ANYTHING)
        else:
            entries[number] = data.draw(ANYTHING)
    with tempfile.TemporaryDirectory() as root:
        folder, path = write_coco(Path(root), two_photos(), content)
        try:
            dataset = read_dataset(images=folder, annotations=path, skip_bad=skip_bad)
        except DataError:
            return
        written = dataset.to_coco()
        path.write_text(json.dumps(written))
        assert read_dataset(images=folder, annotations=path).to_coco() == written


def test_coco_named_lvis(tmp_path: Path) -> None:
    folder, path = write_coco(tmp_path, two_photos())
    with pytest.raises(DataError, match="expected LVIS with neg_category_ids or frequency, got neither"):
        read_dataset(images=folder, annotations=path, format="lvis")
