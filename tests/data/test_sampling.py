"""Weights mean what they say: statistics of the weights and of the epochs drawn with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cora.data.loader import EpochLoader
from cora.data.order import EpochOrder
from cora.data.sampling import (
    draw,
    epoch_length,
    equal_class_weights,
    pseudo_weights,
    repeat_factors,
    small_object_weights,
)
from cora.errors import DataError


@dataclass(frozen=True)
class Record:
    classes: Tensor
    boxes_xyxy_px: Tensor
    only_pseudo: bool = False


def record(*classes: int, sides: tuple[float, ...] = ()) -> Record:
    widths = torch.tensor(sides or (100.0,) * len(classes))
    boxes = torch.stack([torch.zeros_like(widths), torch.zeros_like(widths), widths, widths], dim=-1)
    return Record(torch.tensor(classes, dtype=torch.int64), boxes.reshape(-1, 4))


class Keys:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]


RECORDS = st.lists(
    st.lists(st.integers(0, 5), max_size=4).map(lambda classes: record(*classes)), min_size=1, max_size=40
)


def test_repeat_factors_by_hand() -> None:
    # Class 0 is in 9 of 10 images, class 1 in one, class 2 in one that has class 0, too.
    records = [record(0)] * 7 + [record(0, 2, 2), record(0, 0), record(1)]
    factors = repeat_factors(records, threshold=0.4)
    assert factors.tolist() == pytest.approx([1.0] * 7 + [2.0, 1.0, 2.0])
    assert repeat_factors(records, threshold=0.001).tolist() == [1.0] * 10


@given(RECORDS, st.floats(0.001, 1.0))
@settings(deadline=None, max_examples=50)
def test_repeat_factors_never_drop_and_prefer_the_rare(records: list[Record], threshold: float) -> None:
    factors = repeat_factors(records, threshold)
    assert float(factors.min()) >= 1.0
    photos = Counter(c for one in records for c in set(one.classes.tolist()))
    for one, factor in zip(records, factors.tolist(), strict=True):
        rarest = min((photos[c] for c in one.classes.tolist()), default=len(records))
        assert factor == pytest.approx(max(1.0, (threshold * len(records) / rarest) ** 0.5))


@given(RECORDS)
@settings(deadline=None, max_examples=50)
def test_equal_class_weights_give_every_class_its_share(records: list[Record]) -> None:
    present = sorted({c for one in records for c in one.classes.tolist()})
    if not present:
        with pytest.raises(DataError, match="expected images of the 6 classes given, got none"):
            equal_class_weights(records, range(6))
        return
    weights = equal_class_weights(records, range(6))
    assert float(weights.mean()) == pytest.approx(1.0)
    # An image's weight is the sum of what its classes give it; a class gives 1/C of an epoch in all.
    photos = Counter(c for one in records for c in set(one.classes.tolist()))
    for c in present:
        holders = [w for w, one in zip(weights.tolist(), records, strict=True) if c in one.classes.tolist()]
        assert sum(holders) >= len(records) / len(present) - 1e-9
        assert min(holders) >= len(records) / len(present) / photos[c] - 1e-9
    for weight, one in zip(weights.tolist(), records, strict=True):
        assert (weight == 0) == (len(one.classes) == 0)


def test_equal_class_weights_leave_other_classes_out() -> None:
    weights = equal_class_weights([record(0), record(0), record(1), record(2)], classes=[0, 1, 7])
    assert weights.tolist() == pytest.approx([1.0, 1.0, 2.0, 0.0])


def test_small_object_weights() -> None:
    records = [record(0, sides=(31.9,)), record(0, sides=(32.0,)), record(), record(1, 2, sides=(200.0, 5.0))]
    assert small_object_weights(records).tolist() == [2, 1, 1, 2]
    assert small_object_weights(records, factor=3.5, classes=[0]).tolist() == [3.5, 1, 1, 1]
    assert small_object_weights(records, area=2.0).tolist() == [1, 1, 1, 1]


def test_images_with_pseudo_labels_only_have_their_own_weight() -> None:
    records = [record(0), replace(record(1), only_pseudo=True), record()]
    assert pseudo_weights(records, 0.25).tolist() == [1, 0.25, 1]


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(0.01, 5.0)), min_size=1, max_size=60).filter(lambda w: sum(w) > 0),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=100)
def test_every_photo_is_drawn_as_often_as_its_weight_rounded_up_or_down(weights: list[float], seed: int) -> None:
    given_weights = torch.tensor(weights, dtype=torch.float64)
    drawn = draw(given_weights, np.random.default_rng(seed))
    length = epoch_length(given_weights)
    assert len(drawn) == length
    expected = given_weights.numpy() * length / sum(weights)
    counts = np.bincount(drawn, minlength=len(weights))
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()


def test_the_mean_over_epochs_is_the_weight() -> None:
    weights = torch.tensor([0.25, 0.5, 1.0, 1.75, 2.5, 0.0], dtype=torch.float64)
    order = EpochOrder(size=6, batch_size=1, seed=3, weights=weights)
    assert len(order) == 6
    epochs = 2000
    counts = Counter(int(batch[0]) for epoch in range(epochs) for batch in order.batches(epoch))
    means = torch.tensor([counts[i] / epochs for i in range(6)], dtype=torch.float64)
    # Counts differ from their mean by less than 1, so 5 standard errors are below 5 * 0.5 / sqrt(2000).
    torch.testing.assert_close(means, weights, atol=0.056, rtol=0)


def test_rare_classes_are_seen_more_often() -> None:
    records = [record(0)] * 98 + [record(1)] * 2
    loader = EpochLoader(dataset=Keys(100), batch_size=1, collate=list, weights=equal_class_weights(records, [0, 1]))
    drawn = [batch[0] for epoch in range(5) for batch in loader.epoch(epoch)]
    assert sum(index >= 98 for index in drawn) == 250


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def epoch(number: int, **options: Any) -> list[list[int]]:
        weights = torch.linspace(0.5, 2.0, 30, dtype=torch.float64)
        return list(EpochLoader(dataset=Keys(30), batch_size=4, collate=list, weights=weights, **options).epoch(number))

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert epoch(1) != epoch(1, seed=9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(3), r"expected one for each of 4 images, got shape \[3\]"),
        (torch.tensor([1.0, float("nan"), -1.0, 1.0]), "got 2 others of 4"),
        (torch.zeros(4), "the sum 0"),
    ],
)
def test_weights_that_cannot_be_used(weights: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        EpochLoader(dataset=Keys(4), batch_size=1, collate=list, weights=weights)


def test_arguments_out_of_range() -> None:
    with pytest.raises(DataError, match=r"expected a threshold in 0\.\.1"):
        repeat_factors([record(0)], threshold=0.0)
    with pytest.raises(DataError, match="factor >= 1, got 1024"):
        small_object_weights([record(0)], factor=0.5)
    with pytest.raises(DataError, match="expected at least one image"):
        repeat_factors([])
    with pytest.raises(DataError, match="expected a weight above 0, got 0"):
        pseudo_weights([record(0)], 0)
