"""Before and after on the same boxes: shares, classes that count, paired intervals."""

import numpy as np
import pytest
import torch

from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.region_change import RegionChange, region_change

NAMES = ("cat", "dog", "bus")
EYE = torch.eye(3)
#: cat and dog exchanged
SWAPPED = EYE[[1, 0, 2]]


def change(before: torch.Tensor, after: torch.Tensor, chosen: tuple[str, ...] = NAMES) -> RegionChange:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    regions = EYE[torch.tensor([0, 0, 1, 1, 2, 0])]  # boxes 2 and 5 look like another class
    return region_change(
        regions=regions, labels=labels, image_index=torch.tensor([0, 0, 1, 1, 2, 2]), before=before, after=after,
        class_names=NAMES, chosen=chosen, counts=resample_counts(3, resamples=50),
    )  # fmt: skip


def test_shares_over_boxes_and_classes() -> None:
    found = change(EYE, SWAPPED)
    assert found.boxes == 6
    assert found.per_box.before.value == pytest.approx(4 / 6)
    assert found.per_box.after.value == pytest.approx(2 / 6)
    assert found.per_box.difference.value == pytest.approx(-2 / 6)
    assert found.per_class.before.value == pytest.approx(np.mean([2 / 3, 1, 1 / 2]))
    assert found.per_class.after.value == pytest.approx(np.mean([1 / 3, 0, 1 / 2]))


def test_all_classes_compete_and_some_count() -> None:
    bus = change(EYE, SWAPPED, ("bus",))
    assert bus.boxes == 2
    assert (bus.per_box.before.value, bus.per_box.after.value) == (0.5, 0.5)
    none = change(EYE, SWAPPED, ())
    assert none.boxes == 0
    assert none.per_box.difference.value is None


def test_nothing_changed_has_no_width() -> None:
    same = change(EYE, EYE.clone())
    assert (same.per_box.difference.value, same.per_box.difference.low, same.per_box.difference.high) == (0, 0, 0)
    assert same.per_box.before.low is not None
    assert same.per_box.before.high is not None
    assert same.per_box.before.low < same.per_box.before.high
