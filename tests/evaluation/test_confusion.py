"""Confusion of the region classifier on true boxes."""

import pytest
import torch

from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.confusion import region_confusion
from cora.regions import Vocabulary
from tests.evaluation.coco_data import CLASSES, ground_truth, write_folder

NAMES = tuple(CLASSES)


class _Shifted:
    """Names every box as the class after its own."""

    device = torch.device("cpu")

    def __init__(self, dataset):
        self._truth = iter([record.classes for record in dataset.records if len(record.classes)])

    def preprocessor(self, images):
        return torch.zeros(len(images))

    def encode(self, batch):
        return None, None

    def classify(self, c3, boxes_cxcywh, vocabulary):
        classes = next(self._truth)
        assert boxes_cxcywh.shape == (1, len(classes), 4)
        return torch.nn.functional.one_hot((classes + 1) % 3, 3)[None].float()


@pytest.fixture
def dataset(tmp_path):
    images, annotations = write_folder(tmp_path, ground_truth(seed=4))
    return CocoDataset(annotations=annotations, images=images)


def test_every_box_counts_once_where_it_was_taken_for(dataset):
    found = region_confusion(_Shifted(dataset), dataset, Vocabulary(NAMES, torch.eye(3)))
    assert torch.equal(found.sum(dim=1), dataset.class_counts())
    assert torch.equal(found, torch.diag(dataset.class_counts()).roll(1, dims=1))


def test_only_the_photos_asked_for(dataset):
    chosen = next(i for i, record in enumerate(dataset.records) if len(record.classes))
    found = region_confusion(_Shifted(dataset), dataset, Vocabulary(NAMES, torch.eye(3)), indices=[chosen])
    assert int(found.sum()) == len(dataset.records[chosen].classes)


def test_other_classes_are_refused(dataset):
    with pytest.raises(DataError, match="dataset's 3 classes in its order"):
        region_confusion(_Shifted(dataset), dataset, Vocabulary(NAMES[::-1], torch.eye(3)))
