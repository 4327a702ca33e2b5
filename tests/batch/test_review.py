"""Thresholds by class, and which boxes a person should look at."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cora.batch import Box, ExportSettings, ReviewSettings, Thresholds, parse_thresholds
from cora.batch.records import NONE
from cora.batch.review import uncertainty
from cora.batch.settings import DetectSettings
from cora.errors import DataError
from tests.batch.fake import NAMES, label, write_pictures


def box(score: float, other: float | None = None) -> Box:
    return Box(0, score, 0, 0, 1, 1, *((NONE, 0.0) if other is None else (1, other)))


def test_uncertain_by_score() -> None:
    asked = ReviewSettings(low=0.2, high=0.6)
    at = {score: uncertainty(box(score), 0.3, asked) for score in (0.19, 0.2, 0.3, 0.45, 0.59, 0.6)}
    assert at[0.19] == at[0.6] == (0.0, "")
    assert at[0.3] == (1.0, "score")
    assert at[0.2][0] == pytest.approx(2 / 3)
    assert at[0.45][0] == pytest.approx(0.5)
    assert at[0.59][0] == pytest.approx(1 / 30)


def test_uncertain_by_margin() -> None:
    asked = ReviewSettings(margin=0.2)
    assert uncertainty(box(0.5, 0.5), 0.3, asked) == (1.0, "margin")
    assert uncertainty(box(0.5, 0.4), 0.3, asked)[0] == pytest.approx(0.5)
    for certain in (box(0.5, 0.29), box(0.5), box(0.1, 0.1)):  # far apart, no other class, no label
        assert uncertainty(certain, 0.3, asked) == (0.0, "")


def test_both_reasons_and_the_greater_counts() -> None:
    value, reason = uncertainty(box(0.5, 0.45), 0.3, ReviewSettings(low=0.2, high=0.6, margin=0.1))
    assert (value, reason) == (pytest.approx(0.5), "score and margin")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.98), st.floats(0, 1))
def test_uncertainty_is_in_0_to_1(score: float, other: float, threshold: float, low: float, margin: float) -> None:
    asked = ReviewSettings(low=low, high=low + 0.02, margin=margin)
    value, reason = uncertainty(box(score, min(score, other)), threshold, asked)
    assert 0 <= value <= 1
    assert reason or value == 0


@pytest.mark.parametrize("format", ["csv", "json"])
def test_list_is_sorted_and_says_what_became_a_label(tmp_path: Path, format: Any) -> None:
    write_pictures(tmp_path / "in", 14)
    review = ReviewSettings(low=0.2, high=0.6, margin=0.2, format=format)
    export = ExportSettings(thresholds=Thresholds(usual=0.3, by_class={"dog": 0.5}), review=review)
    report = label(tmp_path / "in", tmp_path / "out", export=export)
    text = (tmp_path / "out" / "review" / f"boxes.{format}").read_text()
    rows = json.loads(text) if format == "json" else list(csv.DictReader(text.splitlines()))
    assert len(rows) == report.reviewed > 3
    values = [float(row["uncertainty"]) for row in rows]
    assert values == sorted(values, reverse=True)
    annotations = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    labels = {(a["image_id"], a["score"]) for a in annotations}
    for row in rows:
        score, threshold = float(row["score"]), float(row["threshold"])
        assert threshold == (0.5 if row["class_name"] == "dog" else 0.3)
        said = row["label"] in (True, "true")
        assert said == (score >= threshold) == ((int(row["image_id"]), score) in labels)
    assert {row["label"] in (True, "true") for row in rows} == {True, False}


def test_sheet_shows_as_many_as_asked_and_goes_with_its_list(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14)
    review = ReviewSettings(low=0.2, high=0.6, sheet=2)
    report = label(tmp_path / "in", tmp_path / "out", export=ExportSettings(review=review))
    assert report.reviewed > 2
    with Image.open(tmp_path / "out" / "review" / "sheet.jpg") as sheet:
        assert sheet.width > 2 * sheet.height / 2 > 100
    label(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").glob("review/*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat=0.3,dog=0.2", {"cat": 0.3, "dog": 0.2}),
        (" traffic light = 1 ", {"traffic light": 1.0}),
        ("a=b=0.5", {"a=b": 0.5}),
    ],
)
def test_thresholds_on_the_command_line(text: str, expected: dict[str, float]) -> None:
    assert parse_thresholds(text, usual=0.4) == Thresholds(usual=0.4, by_class=expected)


@pytest.mark.parametrize("content", ['{"cat": 0.3, "dog": 0.2}', "cat=0.3\n\ndog = 0.2\n", "cat=0.3, dog=0.2"])
@pytest.mark.parametrize("mark", ["", "@"])
def test_thresholds_in_a_file(tmp_path: Path, content: str, mark: str) -> None:
    (tmp_path / "t").write_text(content)
    found = parse_thresholds(f"{mark}{tmp_path / 't'}", usual=0.5)
    assert found.of(NAMES) == (0.3, 0.2, 0.5)


def test_a_file_of_thresholds_that_names_a_class_twice_is_refused(tmp_path: Path) -> None:
    for text in ('{"cat": 0.1, "cat": 0.2}', '{"cat": 0.1, "Cat": 0.2}', "cat=0.1\ncat=0.2"):
        (tmp_path / "thresholds").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="got 'cat' twice"):
            parse_thresholds(f"@{tmp_path / 'thresholds'}", usual=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.json", "cannot read none.json"),
        ("cat=high", "expected a score in 0..1 for 'cat', got 'high'"),
        ("cat=1.5", "got 1.5"),
        ("cat=nan", "got nan"),
        ("cat=0.1,cat=0.2", "got 'cat' twice"),
        ("traffic_light=0.1,Traffic light=0.2", "got 'traffic_light' twice"),
        ("=0.1", "expected name=score, got '=0.1'"),
        ("cat=0.1,dog", "expected name=score, got 'dog'"),
    ],
)
def test_bad_thresholds(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_thresholds(text, usual=0.3)


@pytest.mark.parametrize("content", ['{"cat": true}', '{"cat": "0.3"}', '{"cat": {}}', "{", '{"cat": -1}'])
def test_bad_threshold_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match="thresholds: expected"):
        parse_thresholds(str(tmp_path / "t.json"), usual=0.3)


def test_thresholds_of_unknown_names() -> None:
    with pytest.raises(DataError, match=r"among the classes \(cat, dog, traffic light\), got 'cow'"):
        Thresholds(by_class={"cow": 0.1}).of(NAMES)


def test_what_has_to_be_kept() -> None:
    thresholds = Thresholds(usual=0.4, by_class={"cat": 0.3})
    for review, least in (
        (ReviewSettings(), 0.3),
        (ReviewSettings(low=0.1, high=0.5), 0.1),
        (ReviewSettings(margin=0.05), 0.25),
        (ReviewSettings(margin=0.9), 0.001),
    ):
        assert ExportSettings(thresholds=thresholds, review=review).lowest_score(NAMES) == pytest.approx(least)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReviewSettings(low=0.5, high=0.2), "0 <= low < high"),
        (lambda: ReviewSettings(low=0.5), "both scores or none"),
        (lambda: ReviewSettings(margin=2), "margin: expected 0..1"),
        (lambda: Thresholds(usual=2), "threshold: expected"),
        (lambda: ExportSettings(format="csv"), "format: expected one of parquet, coco, yolo, voc, got 'csv'"),
        (lambda: ExportSettings(photos="move"), "photos: expected"),
        (lambda: DetectSettings(classes=()), "at least one name"),
        (lambda: DetectSettings(classes=("a",), keep=3), "keep: expected"),
        (lambda: DetectSettings(classes=("a",), batch_size=0), "batch_size: expected"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
