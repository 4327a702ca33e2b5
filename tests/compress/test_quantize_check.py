"""The comparison of a float model with what it became: agreement, AP, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.compress.quantize_check import (
    COMPARED_BOXES,
    Contender,
    Measured,
    Pictures,
    compare,
    reasons_to_refuse,
)
from cora.evaluation.bootstrap import Estimate
from cora.evaluation.coco_ap import evaluate_boxes
from cora.structures import Detections
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results

pytestmark = pytest.mark.integration

SIDE = 200
Results = Sequence[dict[str, Any]]


class Fake:
    """Gives prepared results; images are told apart by the colour of their first pixel."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.asked: list[int] = []

    def predict(self, image: Image.Image) -> Detections:
        image_id = image.getpixel((0, 0))[0]  # type: ignore[index]
        self.asked.append(image_id)
        own = sorted((r for r in self.results if r["image_id"] == image_id), key=lambda r: -r["score"])
        boxes = torch.tensor([r["bbox"] for r in own]).reshape(-1, 4)
        return Detections(
            boxes_xyxy_px=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            scores=torch.tensor([r["score"] for r in own]),
            labels=torch.tensor([r["category_id"] - 1 for r in own], dtype=torch.int64),
            class_names=tuple(CLASSES),
            image_size=(SIDE, SIDE),
        )


def pictures(truth: dict[str, Any], *, annotated: bool = True) -> Pictures:
    ids = [image["id"] for image in truth["images"]]

    def read(place: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (SIDE, SIDE), (ids[place], 0, 0)), ids[place]

    groups = {"novel": ("cat",), "base": ("dog", "bus"), "all": tuple(CLASSES)}
    return Pictures(
        read=read,
        count=len(ids),
        classes=tuple(CLASSES),
        truth=truth if annotated else None,
        groups=groups if annotated else {},
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(bytes(2_500_000))
    return path


def contenders(file: Path, *results: Results) -> list[Contender]:
    return [Contender(name=str(n), predict=Fake(r).predict, files=(file,) * (n + 1)) for n, r in enumerate(results)]


@pytest.mark.parametrize("extra", [0, 3, 2 * COMPARED_BOXES])
def test_a_model_agrees_with_itself(file: Path, extra: int) -> None:
    truth = ground_truth()
    results = noisy_results(truth, extra=extra)
    rows = compare(contenders(file, results, results), pictures(truth, annotated=False))
    assert [row.agreement for row in rows] == pytest.approx([100.0, 100.0])
    assert [row.ap50 for row in rows] == [{}, {}]
    assert [row.megabytes for row in rows] == [2.5, 5.0]
    assert all(row.milliseconds > 0 for row in rows)


def test_agreement_falls_with_what_is_changed(file: Path) -> None:
    truth = ground_truth()
    results = noisy_results(truth)
    moved = [{**r, "bbox": [r["bbox"][0] + 300, *r["bbox"][1:]]} for r in results[::3]]
    renamed = [{**r, "category_id": r["category_id"] % 3 + 1} for r in results[1::3]]
    rows = compare(
        contenders(file, results, [*moved, *results[1::3], *results[2::3]], [*moved, *renamed, *results[2::3]], []),
        pictures(truth, annotated=False),
    )
    found = [row.agreement for row in rows]
    assert found[0] == pytest.approx(100)
    assert 100 > found[1] > found[2] > found[3] == 0  # type: ignore[operator]


def test_average_precision_is_that_of_the_evaluator(file: Path) -> None:
    truth = ground_truth()
    results = noisy_results(truth)
    [row] = compare(contenders(file, results), pictures(truth))
    expected = {
        s.name: 100 * s.ap50 for s in evaluate_boxes(truth, results, classes=CLASSES).scores if s.ap50 is not None
    }
    assert row.ap50["novel"].value == pytest.approx(expected["cat"], abs=1e-3)
    assert row.ap50["base"].value == pytest.approx((expected["dog"] + expected["bus"]) / 2, abs=1e-3)
    assert row.ap50["all"].value == pytest.approx(sum(expected.values()) / 3, abs=1e-3)


def test_intervals_hold_the_value_and_changes_are_paired(file: Path) -> None:
    truth = ground_truth()
    results = noisy_results(truth)
    plain, same, worse = compare(contenders(file, results, results, results[::2]), pictures(truth))
    for group, score in plain.ap50.items():
        assert score.low < score.value < score.high  # type: ignore[operator]
        # The same images are drawn for both, so that a model differs from itself in no resample.
        assert same.change[group] == Estimate(value=0.0, low=0.0, high=0.0)
        lost = worse.change[group]
        assert lost.value == pytest.approx(worse.ap50[group].value - score.value)  # type: ignore[operator]
        assert lost.low <= lost.value <= lost.high  # type: ignore[operator]


def test_a_group_without_a_box_has_no_score(file: Path) -> None:
    truth = ground_truth()
    truth["annotations"] = [one for one in truth["annotations"] if one["category_id"] != CLASSES["cat"]]
    for row in compare(contenders(file, noisy_results(truth), []), pictures(truth)):
        assert row.ap50["novel"] == row.change["novel"] == Estimate(value=None, low=None, high=None)
        assert row.ap50["all"].value is not None


def test_a_model_that_finds_nothing_has_nothing_to_agree_with(file: Path) -> None:
    truth = ground_truth()
    rows = compare(contenders(file, [], noisy_results(truth)), pictures(truth, annotated=False))
    assert [row.agreement for row in rows] == [None, None]


def test_models_take_turns(file: Path) -> None:
    truth = ground_truth(images=4)
    models = [Fake([]), Fake([])]
    compare([Contender(name="", predict=model.predict, files=()) for model in models], pictures(truth))
    ids = [image["id"] for image in truth["images"]]
    for model in models:
        assert model.asked == [ids[0], *ids]  # the first image twice: warm-up


def row(novel: float | None, base: float, agreement: float | None = 90.0) -> Measured:
    ap50 = {
        group: Estimate(value=value, low=value, high=value)
        for group, value in {"novel": novel, "base": base, "all": base}.items()
    }
    return Measured(name="", megabytes=1, milliseconds=1, agreement=agreement, ap50=ap50)


@pytest.mark.parametrize(
    ("plain", "quantized", "expected"),
    [
        (row(30, 50), row(29, 49), []),
        (row(30, 50), row(31, 55), []),
        (row(None, 50), row(None, 50), []),
        (row(30, 50), row(28.9, 50), ["AP50 of novel classes falls from 30.0 to 28.9"]),
        (row(30, 50), row(30, 40), ["AP50 of base classes falls from 50.0 to 40.0", "AP50 of all classes"]),
        (row(30, 50), row(30, 50, 59.9), ["agree with those of the float model by 59.9 of 100"]),
        (row(30, 50), row(30, 50, None), []),
    ],
)
def test_what_is_refused(plain: Measured, quantized: Measured, expected: list[str]) -> None:
    reasons = reasons_to_refuse(plain, quantized, max_loss=1.0, min_agreement=60.0)
    assert len(reasons) == len(expected)
    assert all(text in reason for text, reason in zip(expected, reasons, strict=True))
