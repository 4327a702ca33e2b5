"""Boxes of another detector: which files are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cora.errors import DataError
from cora.training.pseudo_boxes import PseudoBoxConfig, pseudo_label
from cora.training.result_teacher import read_results

LISTING: dict[str, Any] = {
    "images": [
        {"id": 4, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 5, "file_name": "b.jpg", "height": 40, "width": 60},
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
}
RESULTS: list[dict[str, Any]] = [
    {"image_id": 4, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.4},
    {"image_id": 4, "category_id": 2, "bbox": [20, 0, 10, 10], "score": 0.9},
    {"image_id": 4, "category_id": 2, "bbox": [21, 0, 10, 10], "score": 0.8},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("scored_file", [True, False])
def test_results_become_pseudo_boxes(folder: Path, scored_file: bool) -> None:
    if scored_file:
        results, listing = write(folder, "r.json", {**LISTING, "annotations": RESULTS}), None
    else:
        results, listing = write(folder, "r.json", RESULTS), write(folder, "list.json", LISTING)
    photos, teacher = read_results(results, images=folder / "photos", image_list=listing, model="other detector")
    assert [(photo.image_id, photo.file_name, set(photo.names)) for photo in photos] == [(4, "a.jpg", {"cat", "dog"})]
    output = folder / "pseudo.json"
    report = pseudo_label(
        photos=photos, teacher=teacher, output=output, config=PseudoBoxConfig(class_scores={"dog": 0.3})
    )
    assert report.boxes == {"cat": 1, "dog": 1}
    found = json.loads(output.read_text())["annotations"]
    assert [one["bbox"] for one in found] == [[20, 0, 10, 10], [0, 0, 10, 10]]
    assert found[1]["source"] == {"model": "other detector", "threshold": 0.3, "score": 0.4, "caption_ids": []}


def test_the_file_names_the_teacher_if_nobody_does(folder: Path) -> None:
    results = write(folder, "dino.json", {**LISTING, "annotations": RESULTS})
    assert read_results(results, images=folder / "photos")[1].model == "dino.json"


@pytest.mark.parametrize(
    ("results", "listing", "message"),
    [
        (RESULTS, None, r"expected the images and categories that its ids stand for, too.*\(--image-list\)"),
        (RESULTS, {"images": []}, "expected a COCO object with the lists images and categories"),
        (RESULTS, [], "expected a COCO object with the lists images and categories"),
        ("{", LISTING, "cannot be read as JSON"),
        ("3", LISTING, "expected a list of COCO results or a COCO object, got a number"),
        ([], LISTING, "expected scored boxes, got none of 0"),
        ({**LISTING, "annotations": 3}, None, "expected scored boxes, got none of 0"),
    ],
)
def test_files_of_another_form_are_refused(folder: Path, results: object, listing: object, message: str) -> None:
    image_list = None if listing is None else write(folder, "list.json", listing)
    with pytest.raises(DataError, match=message):
        read_results(write(folder, "r.json", results), images=folder / "photos", image_list=image_list)


def test_faults_are_counted_in_one_message_and_can_be_skipped(folder: Path) -> None:
    bad = [
        {"image_id": 4, "category_id": 2, "bbox": [0, 0, 1, 1]},
        {"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5},
        {"image_id": 4, "category_id": 99, "bbox": [0, 0, 1, 1], "score": 0.5},
        {"image_id": 4, "category_id": 2, "bbox": [0, 0, 1], "score": 0.5},
        {"image_id": 4, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 50},
        {"image_id": 6, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5},
    ]
    listing = {
        "images": [*LISTING["images"], {"id": 4, "file_name": "b.jpg", "height": 1, "width": 1}, {"id": 5},
                   {"id": 6, "file_name": "gone.jpg", "height": 1, "width": 1}],
        "categories": [*LISTING["categories"], {"id": 9}],
    }  # fmt: skip
    paths = write(folder, "r.json", RESULTS + bad), write(folder, "list.json", listing)
    with pytest.raises(DataError) as error:
        read_results(paths[0], images=folder / "photos", image_list=paths[1])
    for kind in (
        "1 result without image_id, category_id, bbox or score (first: entry 3)",
        "1 result of an unknown image",
        "1 result of an unknown category",
        "1 box that is not four finite numbers",
        "1 score outside 0..1",
        "1 duplicate image id",
        "1 image without id, width or height",
        "1 category without id or name",
        "1 missing image file (first: gone.jpg)",
    ):
        assert kind in str(error.value)
    photos, _ = read_results(paths[0], images=folder / "photos", image_list=paths[1], skip_bad=True)
    assert [photo.file_name for photo in photos] == ["a.jpg"]
