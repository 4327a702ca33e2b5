"""Pseudo boxes: thresholds, no overlap with real boxes, provenance, and the same file after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.boxes import pairwise_iou, xywh_to_xyxy
from cora.data.captions import NamedPhoto, folder_photos
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.errors import DataError, ImageError, TrainingError, VocabularyError
from cora.images import Preprocessor
from cora.structures import Detections
from cora.training.pseudo_boxes import (
    DetectorTeacher,
    PseudoBoxConfig,
    keep_boxes,
    pseudo_label,
)

SIZE = (40, 60)


def found(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int]) -> Detections:
    return Detections(
        boxes_xyxy_px=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=("cat", "dog"),
        image_size=SIZE,
    )


class Scripted:
    """A teacher that finds, in every image, its first name on the left, with a score that falls with the image's id."""

    model = "scripted"

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[str] = []
        self._stop_at = stop_at

    def label(self, photo: NamedPhoto, score_threshold: float) -> Detections:
        if photo.image_id == self._stop_at:
            raise KeyboardInterrupt
        self.seen.append(photo.file_name)
        if "broken" in photo.file_name:
            raise ImageError(f"expected an image, got nothing: {photo.file_name}")
        if "endless" in photo.names:
            raise VocabularyError("class name 'endless': expected to fit the text tower's context, got more")
        return Detections(
            boxes_xyxy_px=torch.tensor([[0.0, 0.0, 20.0, 40.0]]),
            scores=torch.tensor([1 - photo.image_id / 10]),
            labels=torch.tensor([0]),
            class_names=tuple(photo.names),
            image_size=SIZE,
        )


def photo(image_id: int, file_name: str = "", **names: Any) -> NamedPhoto:
    file_name = file_name or f"{image_id}.jpg"
    return NamedPhoto(image_id=image_id, path=Path(file_name), file_name=file_name, names=names or {"cat": ()})


def real(*boxes: Sequence[float], file_name: str = "1.jpg") -> dict[str, Any]:
    return {
        "images": [{"id": 70, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 5, "name": "Dog"}],
        "annotations": [
            {"id": i, "image_id": 70, "category_id": 5, "bbox": list(box)} for i, box in enumerate(boxes, start=1)
        ],
    }


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_thresholds_hold_per_class() -> None:
    config = PseudoBoxConfig(score=0.5, class_scores={"dog": 0.2})
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [20, 20, 30, 30]]
    kept, scores, labels, _ = keep_boxes(found(boxes, [0.6, 0.4, 0.3, 0.1], [0, 0, 1, 1]), config, torch.zeros(0, 4))
    assert kept == [[0, 0, 10, 10], [0, 20, 10, 10]]
    assert (scores, labels, config.lowest_threshold) == ([0.6, 0.3], [0, 1], 0.2)


def test_suppression_is_within_a_class() -> None:
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]]
    kept = keep_boxes(found(boxes, [0.6, 0.9, 0.7], [0, 0, 1]), PseudoBoxConfig(), torch.zeros(0, 4))
    assert kept[0] == [[1, 0, 10, 10], [0, 0, 10, 10]]
    assert kept[2] == [0, 1]


def test_boxes_are_clipped_and_thin_ones_dropped() -> None:
    boxes = [[-5, -5, 10, 10], [59, 0, 80, 30], [70, 0, 80, 30]]
    kept = keep_boxes(found(boxes, [0.9, 0.8, 0.7], [0, 1, 1]), PseudoBoxConfig(), torch.zeros(0, 4))
    assert kept[0] == [[0, 0, 10, 10]]


def test_the_best_of_a_photo_are_kept() -> None:
    config = PseudoBoxConfig(max_per_photo=1)
    kept = keep_boxes(found([[0, 0, 9, 9], [20, 20, 30, 30]], [0.6, 0.9], [0, 1]), config, torch.zeros(0, 4))
    assert kept[0] == [[20, 20, 10, 10]]


@st.composite
def boxes_xyxy(draw: st.DrawFn) -> list[list[float]]:
    corner = st.tuples(st.floats(-5, 55), st.floats(-5, 35), st.floats(0.1, 60), st.floats(0.1, 40))
    return [[x, y, x + w, y + h] for x, y, w, h in draw(st.lists(corner, max_size=12))]


@settings(max_examples=50)
@given(boxes_xyxy(), boxes_xyxy(), st.data(), st.sampled_from([0.3, 0.5, 0.9]))
def test_no_box_overlaps_a_real_one_or_a_better_one_of_its_class(
    boxes: list[list[float]], others: list[list[float]], data: st.DataObject, limit: float
) -> None:
    n = len(boxes)
    scores = data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    labels = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    reals = torch.tensor(others, dtype=torch.float32).reshape(-1, 4)
    config = PseudoBoxConfig(score=0.4, real_iou=limit)
    kept, kept_scores, kept_labels, on_real = keep_boxes(found(boxes, scores, labels), config, reals)
    corners = xywh_to_xyxy(kept)
    assert bool((pairwise_iou(corners, reals.double()) < limit).all())
    assert all(score >= 0.4 - 1e-6 for score in kept_scores)
    assert kept_scores == sorted(kept_scores, reverse=True)
    assert bool((corners >= 0).all())
    assert bool((corners <= torch.tensor([60.01, 40.01, 60.01, 40.01])).all())
    same = torch.tensor(kept_labels)[:, None] == torch.tensor(kept_labels)[None]
    overlap = pairwise_iou(corners, corners).fill_diagonal_(0)
    # Boxes are rounded to hundredths of a pixel after suppression.
    assert bool((overlap[same] <= 0.5 + 0.02).all())
    assert 0 <= on_real <= n - len(kept)


def test_the_file_tells_where_every_box_comes_from(tmp_path: Path) -> None:
    output = tmp_path / "new" / "pseudo.json"
    photos = [photo(1, cat=(11, 12)), photo(2, dog=()), photo(9, cat=(13,))]
    config = PseudoBoxConfig(score=0.5, class_scores={"dog": 0.7})
    report = pseudo_label(photos=photos, teacher=Scripted(), output=output, config=config, made_by={"from": "captions"})
    content = read(output)
    assert content["images"] == [
        {"id": 1, "file_name": "1.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "2.jpg", "height": 40, "width": 60},
    ]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    first, second = content["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [0.0, 0.0, 20.0, 40.0],
        "area": 800.0,
        "iscrowd": 0,
        "score": 0.9,
        "source": {"model": "scripted", "threshold": 0.5, "score": 0.9, "caption_ids": [11, 12]},
    }
    assert second["source"] == {"model": "scripted", "threshold": 0.7, "score": 0.8, "caption_ids": []}
    info = content["info"]
    assert (info["teacher"], info["score"], info["from"], info["photos"], info["labelled"]) == (
        "scripted", 0.5, "captions", 3, 2,
    )  # fmt: skip
    assert (report.photos, report.labelled, report.boxes) == (3, 2, {"cat": 1, "dog": 1})
    assert [path.name for path in output.parent.iterdir()] == ["pseudo.json"]


def test_real_annotations_lend_their_ids_and_keep_their_boxes_free(tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    photos = [photo(1, dog=()), photo(70, dog=()), photo(3, cat=())]
    teacher, config = Scripted(), PseudoBoxConfig(score=0.0)
    report = pseudo_label(
        photos=photos, teacher=teacher, output=output, config=config, real=real([30, 0, 20, 40], [0, 0, 20, 20.5])
    )
    assert report.on_real == 1
    assert report.labelled == 1  # a score below 0 is none, and image 1 has a real box there
    content = read(output)
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(3, "3.jpg")]
    pseudo_label(photos=photos[:1], teacher=teacher, output=output, config=config, real=real([30, 0, 20, 40]))
    content = read(output)
    assert [image["id"] for image in content["images"]] == [70]
    assert content["categories"] == [{"id": 5, "name": "dog"}]


def test_ids_are_unique_whatever_the_sources_say(tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    photos = [photo(2, "x.jpg"), photo(2, "y.jpg"), photo(1, "z.jpg", dog=(), cat=())]
    pseudo_label(photos=photos, teacher=Scripted(), output=output, config=PseudoBoxConfig(), real=real())
    content = read(output)
    for entries in content["images"], content["annotations"], content["categories"]:
        ids = [entry["id"] for entry in entries]
        assert len(set(ids)) == len(ids) > 1


@pytest.mark.parametrize("torn", [b"", b'{"size": [40, 6'])
def test_an_interrupted_run_ends_with_the_same_file(tmp_path: Path, torn: bytes) -> None:
    photos = [photo(i, "broken.jpg" if i == 2 else "") for i in range(1, 6)]
    options: dict[str, Any] = {"photos": photos, "config": PseudoBoxConfig(), "real": real([0, 0, 20, 40])}
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    pseudo_label(teacher=Scripted(), output=whole, **options)
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(teacher=Scripted(stop_at=4), output=resumed, **options)
    assert not resumed.exists()
    with (tmp_path / "resumed.json.part").open("ab") as file:
        file.write(torn)
    teacher = Scripted()
    report = pseudo_label(teacher=teacher, output=resumed, **options)
    assert teacher.seen == ["4.jpg", "5.jpg"]
    assert (report.resumed, report.problems.counts) == (3, {"images that cannot be read": 1})
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.json", "whole.json"]


def test_a_stop_before_the_first_line_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "pseudo.json.part").write_text('{"run": "12')
    report = pseudo_label(
        photos=[photo(1)], teacher=Scripted(), output=tmp_path / "pseudo.json", config=PseudoBoxConfig()
    )
    assert (report.resumed, report.labelled) == (0, 1)


def test_another_run_does_not_go_on_from_here(tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    photos = [photo(1), photo(2)]
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(photos=photos, teacher=Scripted(stop_at=2), output=output, config=PseudoBoxConfig())
    with pytest.raises(TrainingError, match="belongs to an interrupted run with other images or settings; repeat"):
        pseudo_label(photos=photos, teacher=Scripted(), output=output, config=PseudoBoxConfig(score=0.1))


def test_photos_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    other = {**real(), "images": [{"id": 70, "file_name": "1.jpg", "height": 60, "width": 40}]}
    report = pseudo_label(
        photos=[photo(1), photo(2)], teacher=Scripted(), output=output, config=PseudoBoxConfig(), real=other
    )
    assert "1 image of another size" in str(report.problems)
    assert "1.jpg: (60, 40), annotated (40, 60)" in str(report.problems)
    photos = [photo(1, endless=()), photo(2)]
    report = pseudo_label(photos=photos, teacher=Scripted(), output=output, config=PseudoBoxConfig())
    assert "1 image with a name that the model cannot encode (first: class name 'endless'" in str(report.problems)
    with pytest.raises(DataError, match="got none of 1 that can be used: 1 image that cannot be read"):
        pseudo_label(
            photos=[photo(1, "broken.jpg")], teacher=Scripted(), output=tmp_path / "b.json", config=PseudoBoxConfig()
        )
    assert not (tmp_path / "b.json").exists()


def test_no_box_at_all_still_gives_a_file(tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    report = pseudo_label(photos=[photo(1)], teacher=Scripted(), output=output, config=PseudoBoxConfig(score=0.99))
    content = read(output)
    assert (report.labelled, content["images"], content["annotations"], content["categories"]) == (0, [], [], [])


def test_a_photo_twice_and_a_threshold_of_no_name_are_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": Scripted(), "output": tmp_path / "pseudo.json"}
    with pytest.raises(DataError, match=r"every image once, got 1 file names repeated \(first: 1.jpg\)"):
        pseudo_label(photos=[photo(1), photo(2, "1.jpg")], config=PseudoBoxConfig(), **options)
    with pytest.raises(DataError, match="got 1 unknown: catt; check their spelling"):
        pseudo_label(photos=[photo(1)], config=PseudoBoxConfig(class_scores={"catt": 0.1}), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.5}, r"score: expected 0\.\.1, got 1\.5"),
        ({"class_scores": {"cat": -1}}, r"cat: expected 0\.\.1, got -1"),
        ({"real_iou": 0}, "real_iou: expected above 0"),
        ({"min_side_px": 0.5}, "expected sides of at least 1 px"),
        ({"max_per_photo": 0}, "1 box or more"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PseudoBoxConfig(**options)


def test_a_detector_labels_photos_that_the_readers_take(detector: Detector, tmp_path: Path) -> None:
    files = []
    for i, colour in enumerate(("red", "green", "blue")):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", (96, 64), colour).save(files[-1])
    files.append(tmp_path / "bad.png")
    files[-1].write_bytes(b"no picture")
    output = tmp_path / "pseudo.json"
    progress: list[tuple[int, int]] = []
    detector.preprocessor = Preprocessor(short_side=64, long_side=128)
    report = pseudo_label(
        photos=folder_photos(tmp_path, files, ["cat", "dog"]),
        teacher=DetectorTeacher(detector=detector, model="tiny", distractors=["wall"]),
        output=output,
        config=PseudoBoxConfig(score=0.0),
        on_progress=lambda *done: progress.append(done),
    )
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.problems.counts == {"images that cannot be read": 1}
    dataset = CocoDataset(annotations=output, images=tmp_path, strict=True)
    assert sum(report.boxes.values()) == int(dataset.class_counts().sum()) > 0
