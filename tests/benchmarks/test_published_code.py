"""What `benchmarks/published_code.py` scores and shows, on toy detections; the published code itself is not here."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.published_code import WAYS, Found, agreement, average_precision, images_to_run, stand_in, table
from cora.data.coco import CocoDataset
from cora.evaluation.predict import ground_truth

NAMES = ("cat", "dog", "house")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 40 x 30 with one box each: a dog, a cat, a dog; the categories stand in another order."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (7, 8, 9)]
    boxes = [
        {"id": n, "image_id": n, "category_id": category, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
        for n, category in ((7, 1), (8, 3), (9, 1))
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "house"}, {"id": 3, "name": "cat"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    for image in images:
        Image.new("RGB", (40, 30)).save(tmp_path / str(image["file_name"]))
    return tmp_path


def data_set(folder: Path, limit: int) -> CocoDataset:
    dataset = images_to_run(folder, folder / "boxes.json", NAMES, limit)[1]
    assert dataset is not None
    return dataset


def found(label: int, *boxes: tuple[float, ...]) -> Found:
    return torch.tensor(boxes).reshape(-1, 4), torch.linspace(0.9, 0.1, len(boxes)), torch.full((len(boxes),), label)


def scored(dataset: CocoDataset, detections: list[Found]) -> tuple[float, float]:
    return average_precision(ground_truth(dataset), detections, NAMES)


RIGHT, WRONG = (5.0, 5.0, 25.0, 15.0), (0.0, 0.0, 4.0, 4.0)


def test_annotations_choose_the_images_and_keep_those_that_run(folder: Path) -> None:
    paths, dataset = images_to_run(folder, folder / "boxes.json", NAMES, 2)
    assert [path.name for path in paths] == ["7.png", "8.png"]
    assert dataset is not None
    assert [record.image_id for record in dataset.records] == [7, 8]
    assert images_to_run(folder, None, NAMES, 1) == ([folder / "7.png"], None)


def test_ap_is_the_mean_over_the_classes_that_have_boxes_in_the_images_that_ran(folder: Path) -> None:
    both = data_set(folder, 2)
    assert scored(both, [found(1, RIGHT), found(0, RIGHT)]) == pytest.approx((1, 1))
    assert scored(both, [found(1, RIGHT), found(0)]) == pytest.approx((0.5, 0.5))
    assert scored(both, [found(0, RIGHT), found(1, RIGHT)]) == (0, 0)
    # The dog of the third image counts only where it ran.
    three = data_set(folder, 3)
    dogs = 51 / 101  # of 101 recalls those up to a half
    assert scored(three, [found(1, RIGHT), found(0, RIGHT), found(1)])[0] == pytest.approx((1 + dogs) / 2)


def test_ap_asks_for_more_overlap_than_ap50(folder: Path) -> None:
    one = data_set(folder, 1)
    shifted = (7.0, 5.0, 27.0, 15.0)  # IoU 180 / 220: seven of the ten thresholds
    assert scored(one, [found(1, shifted)]) == pytest.approx((1, 0.7))
    assert scored(one, [found(1, WRONG, RIGHT)])[0] == pytest.approx(0.5)


def test_moved_detections_stand_in_for_annotations() -> None:
    boxes = [(10.0 * n, 5.0, 10.0 * n + 10, 15.0) for n in range(8)]
    truth = stand_in([found(2, *boxes), found(0)], NAMES)
    assert [image["id"] for image in truth["images"]] == [1, 2]
    assert [(box["image_id"], box["category_id"], box["bbox"]) for box in truth["annotations"]] == [
        (1, 3, [0, 5, 10, 10]),
        (1, 3, [41, 5, 9, 10]),
    ]
    assert average_precision(truth, [found(2, boxes[0], boxes[4]), found(0)], NAMES) == pytest.approx(
        (1, 0.95), abs=0.01
    )


def test_the_table_shows_each_way() -> None:
    rows = [
        {"boxes": b, "scores": 1e-6, "agree": a, "published": 8.0, "all boxes": 4.0, "default": 1.0}
        for b, a in ((1e-7, 1.0), (2e-7, 0.5))
    ]
    shown = table(rows, {way: (0.25, 0.125) for way in WAYS}).splitlines()
    assert shown[2] == "| 2 | 2.0e-07 | 1.0e-06 | 50 % |"
    assert shown[-2:] == [
        "| all boxes | 25.00 | 12.50 | 4.0 | 2.0 |",
        "| default | 25.00 | 12.50 | 1.0 | 8.0 |",
    ]


def test_suppression_of_the_same_boxes_agrees_with_itself() -> None:
    boxes, logits = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]), torch.tensor([[2.0, -9], [-9, 1.0]])
    out = {"pred_boxes": boxes[None], "pred_logits": logits[None]}
    corners = torch.tensor([[16.0, 12, 24, 18], [6, 4.5, 10, 7.5]])
    theirs = (corners, logits.diagonal().sigmoid(), torch.tensor([0, 1]))
    assert agreement(out, theirs, (30, 40)) == 1
    assert agreement(out, (corners + 1, *theirs[1:]), (30, 40)) == 0
