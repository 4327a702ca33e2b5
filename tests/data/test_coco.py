import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.data.coco import CocoDataset
from cora.errors import DataError


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 9, "file_name": "b.png", "width": 30, "height": 30},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 5, "bbox": [0, 0, 30, 15]},
        ],
    }


def write(folder: Path, data: dict[str, Any]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name, size in (("a.png", (40, 20)), ("b.png", (30, 30))):
        Image.new("RGB", size).save(folder / "images" / name)
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


def read(folder: Path, data: dict[str, Any], **options: Any) -> CocoDataset:
    return CocoDataset(annotations=write(folder, data), images=folder / "images", **options)


def test_items_are_photo_targets_and_id(tmp_path: Path) -> None:
    dataset = read(tmp_path, content())
    image, targets, image_id = dataset[0]
    assert (image.size, image_id, dataset.class_names) == ((40, 20), 7, ("cat", "dog"))
    torch.testing.assert_close(targets.boxes_cxcywh, torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    assert targets.classes.tolist() == [0]
    assert dataset.records[0].crowd_classes.tolist() == [1]
    assert dataset.class_counts().tolist() == [1, 1]


def test_classes_follow_the_names_asked_for(tmp_path: Path) -> None:
    dataset = read(tmp_path, content(), class_names=["dog"])
    assert [record.classes.tolist() for record in dataset.records] == [[], [0]]
    assert len(read(tmp_path, content(), class_names=["dog"], keep_empty=False)) == 1


def test_boxes_are_clipped_and_degenerate_ones_dropped(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [-10, 5, 30, 100]
    data["annotations"][2]["bbox"] = [3, 3, 0, 10]
    dataset = read(tmp_path, data)
    assert dataset.records[0].boxes_xyxy_px.tolist() == [[0, 5, 20, 20]]
    assert dataset.records[1].classes.tolist() == []
    assert sorted(dataset.repairs.values()) == [1, 1]
    with pytest.raises(DataError, match=r"1 box reaching over the border.*1 box without an area"):
        read(tmp_path, data, strict=True)


def test_faults_are_counted_in_one_message(tmp_path: Path) -> None:
    data = content()
    data["images"].append({"id": 11, "file_name": "gone.png", "width": 5, "height": 5})
    data["images"].append({"id": 7, "file_name": "a.png", "width": 40, "height": 20})
    data["annotations"] += [
        {"id": 1, "image_id": 7, "category_id": 99, "bbox": [1, 1, 2, 2]},
        {"id": 5, "image_id": 7, "category_id": 98, "bbox": [1, 1, 2, 2]},
        {"id": 6, "image_id": 1234, "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"id": 8, "image_id": 7, "category_id": 3, "bbox": [1, 1, float("nan"), 2]},
    ]
    with pytest.raises(DataError) as error:
        read(tmp_path, data)
    for part in (
        "1 missing image file (first: gone.png)",
        "1 duplicate image id (first: 7)",
        "1 duplicate annotation id (first: 1)",
        "2 unknown category ids",
        "1 annotation of an unknown image (first: 6)",
        "1 box that is not four finite numbers (first: 8)",
    ):
        assert part in str(error.value)


def test_unknown_class_names_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 1 of the 2 classes asked for: bird"):
        read(tmp_path, content(), class_names=["dog", "bird"])


def test_photo_of_another_size_is_refused(tmp_path: Path) -> None:
    data = content()
    data["images"][0]["width"] = 41
    with pytest.raises(DataError, match="says 41x20 px, the image has 40x20"):
        read(tmp_path, data)[0]


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file"):
        CocoDataset(annotations=tmp_path / "none.json", images=tmp_path)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="expected a COCO object"):
        CocoDataset(annotations=tmp_path / "list.json", images=tmp_path)


def test_classes_are_found_however_they_are_spelled(tmp_path: Path) -> None:
    data = content()
    plain = read(tmp_path, data)
    names = [f"big_{name}" for name in plain.class_names]
    for category in data["categories"]:
        category["name"] = f"big_{category['name']}"
    asked = [name.replace("_", " ").title() for name in names]
    found = read(tmp_path, data, class_names=asked)
    assert found.class_names == tuple(asked)
    assert found.class_counts().tolist() == plain.class_counts().tolist()
    assert list(found.category_ids.values()) == list(plain.category_ids.values())


@pytest.mark.parametrize("other", ["Cat", "cat ", "c a t", "cat"])
def test_names_that_differ_in_case_or_blanks_are_one_class(tmp_path: Path, other: str) -> None:
    data = content()
    first = next(category for category in data["categories"] if category["name"] == "cat")
    first["name"] = "c_a_t" if " " in other.strip() else "cat"
    data["categories"].append({"id": 901, "name": other})
    size = next(image for image in data["images"] if image["id"] == 7)
    assert (size["width"], size["height"]) == (40, 20)
    data["annotations"].append({"id": 99, "image_id": 7, "category_id": 901, "bbox": [1, 2, 3, 4]})
    before = read(tmp_path, content()).class_counts().tolist()
    dataset = read(tmp_path, data)
    assert dataset.class_names == (first["name"], "dog")
    assert dataset.class_counts().tolist() == [before[0] + 1, before[1]]
    assert dataset.category_ids[first["name"]] == first["id"]
    assert dataset.repairs == {"classes named like another but for case and blanks, merged into it": 1}
