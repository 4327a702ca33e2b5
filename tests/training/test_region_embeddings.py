"""Embeddings of boxes on disk: those of the detector, kept as long as nothing that they depend on changes."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.errors import CoraError
from cora.images import read_image
from cora.training.region_embeddings import embed_regions


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Three images: one with two boxes, one with a crowd alone, one with a box."""
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    boxes = [(0, 1, 0), (0, 2, 0), (1, 1, 1), (2, 2, 0)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 64} for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [5 + n, 5, 30, 20 + n], "iscrowd": crowd}
            for n, (image, category, crowd) in enumerate(boxes)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return CocoDataset(annotations=tmp_path / "boxes.json", images=tmp_path)


def test_embeddings_are_those_of_the_detector(detector: Detector, dataset: CocoDataset) -> None:
    seen: list[tuple[int, int]] = []
    found = embed_regions(detector=detector, dataset=dataset, on_progress=lambda *done: seen.append(done))
    assert found.labels.tolist() == [0, 1, 1]
    assert found.image_index.tolist() == [0, 0, 2]
    assert found.areas_px.tolist() == [30 * 20, 30 * 21, 30 * 23]
    assert (found.images, found.class_names, len(found)) == (3, ("cat", "dog"), 3)
    assert found.class_counts().tolist() == [1, 2]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    record = dataset.records[2]
    with torch.no_grad():
        c3, _ = detector.encode(detector.preprocessor([read_image(record.path)]))
        expected = detector.eval().embed_exact(c3, targets_of(record).boxes_cxcywh[None])[0]
    torch.testing.assert_close(found.regions[2:], expected)
    assert not found.regions.requires_grad


def test_the_file_serves_until_something_changes(
    detector: Detector, dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "deep" / "regions.safetensors"
    calls: list[int] = []

    def embed() -> torch.Tensor:
        found = embed_regions(
            detector=detector, dataset=dataset, file=file, on_progress=lambda done, _: calls.append(done)
        )
        return found.regions

    first = embed()
    assert len(calls) == 3
    assert torch.equal(embed(), first)
    assert len(calls) == 3
    with torch.no_grad():
        detector.prompt.offset.add_(1.0)
    with caplog.at_level(logging.WARNING):
        assert not torch.equal(embed(), first)
    assert "of another model or dataset and is made again" in caplog.text
    file.write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        embed()
    assert "cannot be read and is made again" in caplog.text
    assert len(calls) == 9
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_dataset_without_boxes_and_a_place_that_cannot_be_written(
    detector: Detector, dataset: CocoDataset, tmp_path: Path
) -> None:
    dataset.records = dataset.records[1:2]
    found = embed_regions(detector=detector, dataset=dataset)
    assert found.regions.shape == (0, 16)
    assert found.areas_px.shape == found.labels.shape == (0,)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CoraError, match=r"expected to write .*choose another place"):
        embed_regions(detector=detector, dataset=dataset, file=tmp_path / "file" / "regions.safetensors")
