"""Regions embedded with and without the prompt, and the confusion of the region classifier on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cora.data.coco import CocoDataset
from cora.detector.variants import without_prompt
from cora.errors import DataError
from cora.evaluation.confusion import region_confusion
from cora.evaluation.embedded_regions import EmbeddedRegions, embed_both_ways
from cora.regions import Vocabulary
from tests import toys
from tests.evaluation.coco_data import CLASSES, ground_truth, write_folder

NAMES = tuple(CLASSES)
VOCABULARY = Vocabulary(NAMES, torch.eye(3))


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    images, annotations = write_folder(tmp_path, ground_truth(seed=4))
    return CocoDataset(annotations=annotations, images=images)


def shifted(classes: torch.Tensor) -> EmbeddedRegions:
    """Regions with the embedding of the class after their own; without the prompt, of their own."""
    return EmbeddedRegions(
        prompted=F.one_hot((classes + 1) % 3, 3).float(),
        plain=F.one_hot(classes, 3).float(),
        classes=classes,
        image_index=torch.arange(len(classes)),
        images=len(classes),
        class_names=NAMES,
    )


def test_every_box_counts_once_where_it_was_taken_for() -> None:
    found = region_confusion(shifted(torch.tensor([0, 0, 1, 2, 2, 2])), VOCABULARY)
    assert found.tolist() == [[0, 2, 0], [0, 0, 1], [3, 0, 0]]


def test_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="dataset's 3 classes in its order"):
        region_confusion(shifted(torch.tensor([0])), Vocabulary(NAMES[::-1], torch.eye(3)))


@pytest.mark.slow
def test_regions_are_those_of_the_detector_with_its_prompt_and_with_none(dataset: CocoDataset) -> None:
    detector = toys.toy_detector(toys.toy_config(), residual=0.5)
    with torch.no_grad():
        detector.prompt.offset.normal_()
    offset = detector.prompt.offset.detach().clone()
    found = embed_both_ways(detector, dataset)
    assert torch.equal(detector.prompt.offset, offset)
    assert torch.equal(found.classes.bincount(minlength=3), dataset.class_counts())
    assert found.images == len(dataset)
    for index in (i for i, record in enumerate(dataset.records) if len(record.classes)):
        image, targets, _ = dataset[index]
        mine, boxes = found.image_index == index, targets.boxes_cxcywh[None]
        assert torch.equal(found.classes[mine], targets.classes)
        with torch.no_grad():
            for one, way in ((detector, found.prompted), (without_prompt(detector), found.plain)):
                c3, _ = one.encode(one.preprocessor([image]))
                torch.testing.assert_close(way[mine], one.embed_exact(c3, boxes)[0])
    assert not torch.allclose(found.prompted, found.plain, atol=1e-3)


def test_only_the_images_asked_for(dataset: CocoDataset) -> None:
    chosen = next(i for i, record in enumerate(dataset.records) if len(record.classes))
    found = embed_both_ways(toys.toy_detector(toys.toy_config()), dataset, indices=[chosen])
    assert torch.equal(found.classes, dataset.records[chosen].classes)
    assert found.image_index.unique().tolist() == [0]
    assert found.images == 1


def test_images_without_a_box_give_no_region(dataset: CocoDataset) -> None:
    empty = [i for i, record in enumerate(dataset.records) if not len(record.classes)]
    assert empty
    found = embed_both_ways(toys.toy_detector(toys.toy_config()), dataset, indices=empty)
    assert len(found) == 0
    assert found.prompted.shape == found.plain.shape == (0, 16)
    assert found.images == len(empty)
