"""CLIP-aligned labelling: the classifier's choice in a new file, the original kept, agreement counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.errors import DataError
from cora.images import Preprocessor
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch
from cora.training.relabel import Agreement, plot_confusion, relabel

NAMES = ("red", "green", "blue")


class ColourDetector:
    """Stands in for a detector: names the brightest colour channel under the centre of a box."""

    device = torch.device("cpu")
    preprocessor = Preprocessor(short_side=64, long_side=64)

    def encode(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        pixels = FeatureMap(features=batch.pixels, mask=batch.mask)
        return pixels, pixels

    def classify(self, c3: FeatureMap, boxes_cxcywh: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        assert vocabulary.names == NAMES
        columns = (boxes_cxcywh[0, :, 0] * c3.features.shape[-1]).long()
        rows = (boxes_cxcywh[0, :, 1] * c3.features.shape[-2]).long()
        return c3.features[0, :, rows, columns].T[None]


@pytest.fixture
def detector() -> Detector:
    return ColourDetector()  # type: ignore[return-value]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(NAMES, torch.eye(3))


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0] = 255
    pixels[:, 32:, 2] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate((*NAMES, "other"))],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 10, "bbox": [2, 2, 20, 20]},
            {"id": 2, "image_id": 1, "category_id": 13, "bbox": [2, 2, 20, 20]},
            {"id": 3, "image_id": 1, "category_id": 11, "bbox": [40, 2, 20, 20]},
            {"id": 4, "image_id": 1, "category_id": 11, "bbox": [40, 2, 20, 20], "iscrowd": 1},
        ],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def read(annotations: Path) -> CocoDataset:
    return CocoDataset(annotations=annotations, images=annotations.parent / "images", class_names=NAMES)


def test_boxes_get_the_classifiers_class_and_keep_the_original(
    detector: Detector, vocabulary: Vocabulary, annotations: Path
) -> None:
    before = annotations.read_text()
    output = annotations.with_name("relabelled.json")
    agreement = relabel(detector=detector, vocabulary=vocabulary, dataset=read(annotations), output=output)
    written = json.loads(output.read_text())["annotations"]
    assert [one["category_id"] for one in written] == [10, 13, 12, 11]
    assert [one.get("original_category_id") for one in written] == [10, None, 11, None]
    assert annotations.read_text() == before
    assert (agreement.boxes, agreement.agreed, agreement.share) == (2, 1, 0.5)
    assert agreement.by_class == {"red": (1, 1), "green": (1, 0), "blue": (0, 0)}
    assert agreement.confusion == ((1, 0, 0), (0, 0, 1), (0, 0, 0))
    assert [record.classes.tolist() for record in read(output).records] == [[0, 2]]


def test_relabelling_again_keeps_the_first_original(
    detector: Detector, vocabulary: Vocabulary, annotations: Path
) -> None:
    once, twice = annotations.with_name("once.json"), annotations.with_name("twice.json")
    relabel(detector=detector, vocabulary=vocabulary, dataset=read(annotations), output=once)
    agreement = relabel(detector=detector, vocabulary=vocabulary, dataset=read(once), output=twice)
    assert agreement.share == 1.0
    assert json.loads(twice.read_text()) == json.loads(once.read_text())


def test_another_format_becomes_a_coco_file(detector: Detector, vocabulary: Vocabulary, annotations: Path) -> None:
    names, labels = annotations.with_name("classes.txt"), annotations.with_name("labels")
    names.write_text("red\ngreen\nblue\n")
    labels.mkdir()
    (labels / "a.txt").write_text("1 0.2 0.2 0.3 0.3\n2 0.8 0.2 0.3 0.3\n")
    dataset = read_dataset(images=annotations.parent / "images", annotations=names, format="yolo")
    output = annotations.with_name("relabelled.json")
    agreement = relabel(detector=detector, vocabulary=vocabulary, dataset=dataset, output=output)
    assert agreement.confusion == ((0, 0, 0), (1, 0, 0), (0, 0, 1))
    (record,) = read(output).records
    assert record.classes.tolist() == [0, 2]
    torch.testing.assert_close(record.boxes_xyxy_px, dataset.records[0].boxes_xyxy_px)


def test_the_confusion_is_drawn(tmp_path: Path) -> None:
    agreement = Agreement.of(torch.tensor([[3, 1], [0, 0]]), ("cat", "dog"))
    assert (agreement.share, agreement.by_class) == (0.75, {"cat": (4, 3), "dog": (0, 0)})
    plot_confusion(agreement, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]


def test_the_original_file_cannot_be_overwritten(detector: Detector, vocabulary: Vocabulary, annotations: Path) -> None:
    with pytest.raises(DataError, match="original annotation file"):
        relabel(detector=detector, vocabulary=vocabulary, dataset=read(annotations), output=annotations)


def test_other_classes_are_refused(detector: Detector, annotations: Path) -> None:
    two = Vocabulary(("red", "green"), torch.eye(3)[:2])
    with pytest.raises(DataError, match="needs the dataset's classes in its order"):
        relabel(detector=detector, vocabulary=two, dataset=read(annotations), output=annotations.with_name("new.json"))
