"""Detections as people handle them: picked, filtered, merged, compared, shown, drawn and converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cora
from cora import structures
from cora.detections import Detections
from cora.draw import class_colours
from cora.errors import CoraError, ImageError, OptionError, VocabularyError

NAMES = ("cat", "dog", "remote control")


def made(scores: list[float], labels: list[int] | None = None, **changes: Any) -> Detections:
    count = len(scores)
    corners = torch.arange(count, dtype=torch.float32)[:, None] + torch.tensor([0.0, 1.0, 30.0, 40.0])
    values: dict[str, Any] = {
        "boxes_xyxy_px": corners,
        "scores": torch.tensor(scores),
        "labels": torch.tensor([i % len(NAMES) for i in range(count)] if labels is None else labels).long(),
        "class_names": NAMES,
        "image_size": (80, 100),
    }
    return Detections(**{**values, **changes})


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 7))
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, len(NAMES) - 1), min_size=count, max_size=count))
    return made(sorted(scores, reverse=True), labels)


def test_old_places_still_offer_it() -> None:
    assert cora.Detections is Detections is structures.Detections


@given(found=detections(), data=st.data())
def test_picking_is_that_of_lists(found: Detections, data: st.DataObject) -> None:
    rows = list(found)
    part = data.draw(st.slices(len(found)))
    assert list(found[part]) == rows[part]
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    chosen = [row for row, keep in zip(rows, mask, strict=True) if keep]
    for form in (mask, np.array(mask, dtype=bool), torch.tensor(mask, dtype=torch.bool)):
        assert list(found[form]) == chosen
    if rows:
        numbers = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=9))
        for form in (numbers, np.array(numbers, dtype=np.int32), torch.tensor(numbers, dtype=torch.int64)):
            assert list(found[form]) == [rows[number] for number in numbers]
        for number in numbers:
            for form in (number, np.int64(number), torch.tensor(number)):
                assert list(found[form]) == [rows[number]]


@given(detections())
def test_a_copy_is_equal_and_keeps_everything(found: Detections) -> None:
    assert found[:] == found
    assert hash(found[:]) == hash(found)
    assert found[:].path == found.path
    assert Detections.merge([found]) == found
    assert Detections.merge([found[:2], found[2:]]) == found
    assert len(found[[]]) == 0


@given(found=detections(), score=st.floats(0, 1, width=32), classes=st.lists(st.sampled_from(NAMES)))
def test_filter_keeps_what_python_would(found: Detections, score: float, classes: list[str]) -> None:
    rows = list(found)
    assert found.filter() == found
    assert list(found.filter(score=score)) == [row for row in rows if row[1] > score]
    assert list(found.filter(classes=classes)) == [row for row in rows if row[0] in classes]
    both = found.filter(score=score, classes=classes)
    assert both == found.filter(classes=classes).filter(score=score)
    assert both.class_names == NAMES


def test_filter_by_one_name_and_by_an_unknown_one() -> None:
    found = made([0.9, 0.5, 0.4])
    assert found.filter(classes="remote control").names == ["remote control"]
    with pytest.raises(VocabularyError, match=r"searched for \(cat, dog, remote control\), got 'cot'; search for it"):
        found.filter(classes=["cat", "cot"])


@pytest.mark.parametrize(
    ("rows", "error", "got"),
    [
        (3, IndexError, "expected a number below 3, got 3"),
        (-4, IndexError, "got -4"),
        ([0, 5], IndexError, "got 5"),
        ([True, False], IndexError, "expected a mask of 3 truth values, got 2"),
        (torch.zeros(0, dtype=torch.bool), IndexError, "expected a mask of 3 truth values, got 0"),
        (True, TypeError, "expected a number, slice, mask or list of numbers, got bool True"),
        (1.0, TypeError, "got float 1.0"),
        ([0.5], TypeError, "got list"),
        ("cat", TypeError, "got str 'cat'"),
        (None, TypeError, "got NoneType"),
        ([[0]], TypeError, "got list"),
    ],
)
def test_picking_what_is_not_there(rows: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error, match=got):
        made([0.9, 0.5, 0.4])[rows]


def test_equality_looks_at_what_was_found() -> None:
    found = made([0.9, 0.5])
    assert found == made([0.9, 0.5], image=Image.new("RGB", (100, 80)), path="a.jpg")
    assert found != made([0.9, 0.4])
    assert found != made([0.9, 0.5], labels=[0, 0])
    assert found != made([0.9, 0.5], image_size=(80, 101))
    assert found != made([0.9, 0.5], class_names=("cat", "dog", "mouse"))
    assert found != made([0.9])
    assert found != "detections"
    assert len({found, made([0.9, 0.5]), made([0.9])}) == 2


def test_repr_says_what_was_found() -> None:
    assert repr(made([0.9, 0.5])) == "Detections(2 in 100 x 80: cat 0.90, dog 0.50)"
    many = repr(made([0.9, 0.5, 0.4, 0.3], path="a.jpg"))
    assert many == "Detections(4 in 'a.jpg' 100 x 80: cat 0.90, dog 0.50, remote control 0.40, ...)"
    assert repr(Detections.empty(("cat",), (4, 5))) == "Detections(0 in 5 x 4)"


def test_merge_joins_names_and_sorts() -> None:
    other = Detections(torch.ones(2, 4), torch.tensor([0.7, 0.1]), torch.tensor([1, 0]), ("cup", "dog"), (80, 100))
    merged = Detections.merge([made([0.9, 0.5], path="a.jpg"), other, Detections.empty()])
    assert merged.class_names == (*NAMES, "cup")
    assert [(name, round(score, 2)) for name, score, _ in merged] == [
        ("cat", 0.9), ("dog", 0.7), ("dog", 0.5), ("cup", 0.1),
    ]  # fmt: skip
    assert (merged.path, merged.image_size) == ("a.jpg", (80, 100))
    with pytest.raises(ValueError, match="of one image, got those of images of 100 x 80 and 9 x 8 pixels"):
        Detections.merge([made([0.9]), Detections.empty(image_size=(8, 9))])
    assert Detections.merge([]) == Detections.empty()


@given(st.lists(detections(), max_size=4))
def test_merge_loses_nothing_and_is_best_first(parts: list[Detections]) -> None:
    merged = Detections.merge(parts)
    assert sorted(merged) == sorted(row for part in parts for row in part)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)


def test_empty_can_do_everything() -> None:
    empty = Detections.empty(NAMES, (8, 9))
    assert (len(empty), list(empty), empty.names, empty.to_coco()) == (0, [], [], [])
    assert empty.filter(score=0.5, classes="cat") == empty[:3] == empty[torch.zeros(0, dtype=torch.bool)] == empty
    assert empty.draw(Image.new("RGB", (9, 8))).size == (9, 8)
    assert empty.boxes_xyxy_px.shape == (0, 4)


def test_tensors_are_ordinary() -> None:
    with torch.inference_mode():
        found = made([0.9, 0.5])
        part = found[:1]
    for one in (found, part):
        assert not any(t.is_inference() for t in (one.boxes_xyxy_px, one.scores, one.labels))
        one.scores.requires_grad_().sum().backward()  # an inference tensor would refuse
    taught = made([0.9, 0.5], boxes_xyxy_px=torch.zeros(2, 4, requires_grad=True))
    assert taught.boxes_xyxy_px.numpy().shape == (2, 4)
    half = Detections(torch.zeros(1, 4), torch.tensor([0.5]).bfloat16(), torch.tensor([1]).int(), NAMES, (9, 9))
    assert (half.scores.dtype, half.labels.dtype) == (torch.float32, torch.int64)


def test_to_coco_needs_no_id() -> None:
    found = made([0.9, 0.5])
    assert found.to_coco() == found.to_coco(1)
    assert {entry["image_id"] for entry in found.to_coco(image_id=7)} == {7}
    ids = {"cat": 17, "dog": 18}
    assert [entry["category_id"] for entry in found.to_coco(category_ids=ids)] == [17, 18]


def test_to_supervision_and_back() -> None:
    supervision = pytest.importorskip("supervision")
    with torch.inference_mode():
        found = made([0.9, 0.5, 0.4])
    converted = found.to_supervision()
    assert isinstance(converted, supervision.Detections)
    np.testing.assert_array_equal(converted[converted.confidence > 0.45].xyxy, found.filter(score=0.45).boxes_xyxy_px)
    assert converted.data["class_name"].tolist() == found.names
    assert len(Detections.empty(NAMES).to_supervision()) == 0


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png"])
def test_draw_writes_a_file(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (100, 80), "white")
    found = made([0.9, 0.5], image=image)
    target = tmp_path / "out" / f"drawn{suffix}"
    for image_or_name, named in ((str(target), None), (target, None), (None, target), (image, target)):
        drawn = found.draw(image_or_name, path=named)
        assert drawn.tobytes() == found.draw().tobytes()
        assert Image.open(target).size == (100, 80)
        target.unlink()


def test_draw_reads_the_image_again_where_none_was_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 100), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    found = made([0.9], path=str(tmp_path / "a.png"))
    assert found.draw().tobytes() == found.draw(Image.new("RGB", (100, 80), "white")).tobytes()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="got no file"):
        found.draw()


def test_draw_that_cannot_be(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    found = made([0.9], path=str(tmp_path / "a.png"))
    with pytest.raises(CoraError, match="expected another file than the image itself"):
        found.draw(tmp_path / "out" / ".." / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    with pytest.raises(CoraError, match=r"ends in \.jpg or \.png, got a\.webp"):
        found.draw("a.webp")
    with pytest.raises(ValueError, match="pass the image"):
        made([0.9], path="https://example.org/a.jpg").draw()


@settings(max_examples=20, deadline=None)
@given(detections().filter(len), st.data())
def test_a_class_has_one_colour_in_all_drawings(found: Detections, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(found) - 1))
    one = found[number]
    drawn = one.draw(Image.new("RGB", (100, 80), "white"))
    left, _, _, bottom = (round(corner) for corner in one.boxes_xyxy_px[0].tolist())
    assert drawn.getpixel((left, bottom - 3)) == class_colours(NAMES)[one.names[0]]


def test_an_image_of_another_size_is_not_drawn_on() -> None:
    with pytest.raises(OptionError, match=r"draw: expected the image of 100 x 80 pixels .*, got one of 50 x 40"):
        made([0.5]).draw(Image.new("RGB", (50, 40)))
    assert made([0.5]).draw(Image.new("RGB", (100, 80))).size == (100, 80)


def test_two_classes_of_a_long_list_have_different_colours() -> None:
    names = tuple(f"thing {number}" for number in range(300))
    colours = class_colours(names)
    other = next(place for place in range(1, 300) if colours[names[place]] == colours[names[0]])
    boxes = torch.tensor([[0.0, 20, 40, 60], [50, 20, 90, 60]])
    found = made([0.9, 0.8], [0, other], class_names=names, boxes_xyxy_px=boxes)
    drawn = found.draw(Image.new("RGB", (100, 80), "white"))
    assert drawn.getpixel((0, 57)) != drawn.getpixel((50, 57))
    assert drawn.getpixel((0, 57)) == class_colours(found.names)[names[0]]
