import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cora.data.coco import CocoDataset
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.region_accuracy import RegionRanks, accuracy, by_class, no_prompt, rank_regions, ranks
from tests.evaluation.coco_data import CLASSES, ground_truth, write_folder

NAMES = tuple(CLASSES)


class _Batch(SimpleNamespace):
    def to(self, device):
        return self


class _FakeDetector:
    """Knows the class from the colour of the prompt: right with it, always the first class without."""

    def __init__(self, dataset):
        self.prompt = SimpleNamespace(offset=torch.nn.Parameter(torch.rand(5, 3)))
        self.device = torch.device("cpu")
        self.vocabulary_encoder = SimpleNamespace(encode=lambda names: _Batch(names=tuple(names)))
        self.preprocessor = lambda images: _Batch(images=images)
        self._truth = iter([record.classes for record in dataset.records if len(record.classes)])
        self._current = None

    def encode(self, batch):
        self._current = next(self._truth)
        return None, None

    def classify(self, c3, boxes_cxcywh, vocabulary):
        assert boxes_cxcywh.shape == (1, len(self._current), 4)
        assert vocabulary.names == NAMES
        known = self._current if self.prompt.offset.abs().sum() > 0 else torch.zeros_like(self._current)
        return torch.nn.functional.one_hot(known, 3)[None] + torch.tensor([0.2, 0.1, 0.0])


def test_every_box_that_is_no_crowd_is_ranked(tmp_path):
    truth = ground_truth(seed=4)
    images, annotations = write_folder(tmp_path, truth)
    dataset = CocoDataset(annotations=annotations, images=images)
    detector = _FakeDetector(dataset)
    before = detector.prompt.offset.detach().clone()
    measured = rank_regions(detector, dataset)
    assert len(measured.classes) == sum(not a["iscrowd"] for a in truth["annotations"])
    assert (measured.with_prompt == 0).all()
    assert ((measured.without_prompt == 0) == (measured.classes == 0)).all()
    assert torch.equal(detector.prompt.offset, before)
    assert sorted(measured.areas_px) == pytest.approx(
        sorted(a["area"] for a in truth["annotations"] if not a["iscrowd"]), rel=1e-4
    )


def test_crops_that_were_not_ranked_are_no_zeros():
    with pytest.raises(ValueError, match="crops=True"):
        accuracy(_measured(), NAMES, ["dog"], resample_counts(2), way="crops")


def test_the_prompt_returns_after_an_error():
    detector = SimpleNamespace(prompt=SimpleNamespace(offset=torch.nn.Parameter(torch.rand(5, 3))))
    before = detector.prompt.offset.detach().clone()
    with contextlib.suppress(KeyError), no_prompt(detector):
        assert not detector.prompt.offset.any()
        raise KeyError
    assert torch.equal(detector.prompt.offset, before)


def test_rank_counts_ties_and_nan_against_the_class():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [float("nan")] * 3, [0.3, 0.3, 0.3]])
    assert ranks(scores, torch.tensor([1, 0, 0, 2])).tolist() == [0, 1, 2, 2]


def _measured() -> RegionRanks:
    """Class 0: 4 boxes in image 0, all right; class 1: one box in image 1 of rank 3; class 2: none."""
    return RegionRanks(
        with_prompt=np.array([0, 0, 0, 0, 3]),
        without_prompt=np.array([9, 9, 9, 9, 0]),
        classes=np.array([0, 0, 0, 0, 1]),
        areas_px=np.array([10.0, 2000.0, 2000.0, 20000.0, 1024.0]),
        image_index=np.array([0, 0, 0, 0, 1]),
        images=2,
    )


def test_accuracy_per_box_per_class_and_per_size():
    found = accuracy(_measured(), NAMES, NAMES, resample_counts(2))
    whole = found["all"]
    assert (whole.top1.value, whole.top5.value, whole.top1_per_class.value) == (0.8, 1.0, 0.5)
    assert (whole.boxes, whole.classes) == (5, 2)
    assert {size: found[size].boxes for size in found} == {"all": 5, "small": 1, "medium": 3, "large": 1}
    assert found["medium"].top1.value == pytest.approx(2 / 3)
    # Two images, one all right and one all wrong: resamples reach from 0 to 1.
    assert (whole.top1.low, whole.top1.high) == (0.0, 1.0)


def test_accuracy_of_a_group_and_without_prompt():
    plain = accuracy(_measured(), NAMES, ["dog"], resample_counts(2), way="no prompt")
    assert (plain["all"].top1.value, plain["all"].boxes) == (1.0, 1)
    assert accuracy(_measured(), NAMES, ["bus"], resample_counts(2))["all"].top1.value is None
    assert by_class(_measured(), NAMES)["dog"] == {"top1": 0.0, "top5": 1.0, "boxes": 1}
    assert by_class(_measured(), NAMES)["bus"] == {"top1": None, "top5": None, "boxes": 0}
