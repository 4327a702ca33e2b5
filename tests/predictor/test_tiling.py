"""Tiles cover the image, boxes come back to where they were, pieces of cut objects give way to whole ones."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.predictor.tiling import Predict, Tiles, predict_tiled
from cora.structures import Detections

Box = tuple[float, float, float, float]
_NAMES = ("cup", "bus")


@st.composite
def some_tiles(draw: st.DrawFn) -> Tiles:
    overlap = draw(st.floats(0, 0.85))
    if draw(st.booleans()):
        return Tiles(size_px=draw(st.integers(32, 300)), overlap=overlap)
    return Tiles(count=(draw(st.integers(1, 6)), draw(st.integers(1, 6))), overlap=overlap)


@given(tiles=some_tiles(), height=st.integers(1, 700), width=st.integers(1, 700))
@example(tiles=Tiles(count=(6, 6), overlap=0), height=2, width=3)
def test_tiles_cover_the_picture(tiles: Tiles, height: int, width: int) -> None:
    windows = tiles.windows(height, width)
    seen = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] = True
    assert seen.all()
    assert len(set(windows)) == len(windows)
    assert len({(right - left, bottom - top) for left, top, right, bottom in windows}) == 1


@given(tiles=some_tiles(), height=st.integers(32, 700), width=st.integers(32, 700))
def test_neighbours_overlap_as_asked(tiles: Tiles, height: int, width: int) -> None:
    windows = tiles.windows(height, width)
    columns = sorted({(left, right) for left, _, right, _ in windows})
    for (left, right), (next_left, _) in pairwise(columns):
        assert right - next_left >= tiles.overlap * (right - left) - 1  # whole pixels


@given(tiles=some_tiles(), height=st.integers(1, 700), width=st.integers(1, 700))
def test_number_and_size_are_as_asked(tiles: Tiles, height: int, width: int) -> None:
    windows = tiles.windows(height, width)
    if tiles.count is not None:
        assume(height >= 32 and width >= 32)
        assert len(windows) == tiles.count[0] * tiles.count[1]
    else:
        left, top, right, bottom = windows[0]
        assert (bottom - top, right - left) == (min(height, tiles.size_px or 0), min(width, tiles.size_px or 0))


@cache
def chart(height: int, width: int) -> Image.Image:
    """An image whose pixels say where they are."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns % 256, rows % 256, (columns // 256) * 16 + rows // 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def all_seeing(boxes: Sequence[Box], labels: Sequence[int] | None = None, least: float = 0.2) -> Predict:
    """A detector that finds these objects exactly, cut to what it is shown, if that is more than a share of them."""

    def look(picture: Image.Image) -> Detections:
        red, green, blue = picture.getpixel((0, 0))  # type: ignore[misc]
        left, top = red + 256 * (blue // 16), green + 256 * (blue % 16)
        found = []
        for place, (x1, y1, x2, y2) in enumerate(boxes):
            cut = (max(x1, left), max(y1, top), min(x2, left + picture.width), min(y2, top + picture.height))
            wide, high = cut[2] - cut[0], cut[3] - cut[1]
            if wide > 0 and high > 0 and wide * high > least * (x2 - x1) * (y2 - y1):
                found.append((place, (cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top)))
        return Detections(
            boxes_xyxy_px=torch.tensor([box for _, box in found], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([0.9 - 0.01 * place for place, _ in found]),
            labels=torch.tensor([0 if labels is None else labels[place] for place, _ in found], dtype=torch.int64),
            class_names=_NAMES,
            image_size=(picture.height, picture.width),
            image=picture,
        )

    return lambda pictures: [look(picture) for picture in pictures]


@settings(max_examples=25, deadline=None)
@given(
    tiles=some_tiles(),
    corners=st.lists(st.tuples(st.integers(0, 540), st.integers(0, 340)), min_size=1, max_size=5),
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
)
def test_every_object_comes_back_once_and_where_it_is(
    tiles: Tiles, corners: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    boxes = [(x, y, x + size[0], y + size[1]) for x, y in corners]
    for place, (x1, y1, x2, y2) in enumerate(boxes):
        for u1, v1, u2, v2 in boxes[:place]:
            assume(x2 <= u1 or u2 <= x1 or y2 <= v1 or v2 <= y1)
    found = predict_tiled(all_seeing(boxes), chart(400, 600), tiles=tiles)
    assert sorted(tuple(box) for box in found.boxes_xyxy_px.tolist()) == sorted(boxes)
    assert found.image_size == (400, 600)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("tiles", [Tiles(count=(1, 1)), Tiles(size_px=640), Tiles(count=(1, 1), whole=False)])
def test_one_tile_is_a_plain_prediction(tiles: Tiles) -> None:
    predict, picture = all_seeing([(10, 20, 60, 80), (30, 20, 60, 80)]), chart(400, 600)
    calls: list[int] = []

    def counted(pictures: list[Image.Image]) -> list[Detections]:
        calls.append(len(pictures))
        return predict(pictures)

    tiled, plain = predict_tiled(counted, picture, tiles=tiles), predict([picture])[0]
    assert calls == [1]
    assert torch.equal(tiled.boxes_xyxy_px, plain.boxes_xyxy_px)
    assert torch.equal(tiled.scores, plain.scores)


def test_pieces_of_a_large_object_give_way_to_the_whole_of_it() -> None:
    boxes = [(50.0, 50.0, 500.0, 350.0)]
    tiles = Tiles(count=(2, 2), whole=True, merge="nms")
    found = predict_tiled(all_seeing(boxes), chart(400, 600), tiles=tiles)
    assert found.boxes_xyxy_px.tolist() == [[50, 50, 500, 350]]


def test_pieces_are_joined_where_no_tile_shows_the_whole() -> None:
    boxes = [(50.0, 150.0, 550.0, 250.0)]
    picture = chart(400, 600)
    joined = predict_tiled(all_seeing(boxes), picture, tiles=Tiles(count=(1, 3), whole=False, merge="nmm"))
    assert joined.boxes_xyxy_px.tolist() == [[50, 150, 550, 250]]
    apart = predict_tiled(all_seeing(boxes), picture, tiles=Tiles(count=(1, 3), whole=False, merge="nms"))
    assert len(apart) == 3


def test_neighbours_of_other_classes_and_places_stay_apart() -> None:
    """Two objects that a tile's edge cuts are joined neither with each other nor with a large one around them."""
    boxes = [(280.0, 50.0, 330.0, 80.0), (280.0, 90.0, 330.0, 120.0), (200.0, 40.0, 500.0, 390.0)]
    for whole in (True, False):
        found = predict_tiled(
            all_seeing(boxes, [0, 1, 0]), chart(400, 600), tiles=Tiles(count=(1, 2), overlap=0.3, whole=whole)
        )
        assert sorted(map(tuple, found.boxes_xyxy_px.tolist())) == sorted(boxes)


def test_a_whole_box_takes_the_better_score_of_its_piece() -> None:
    def predict(pictures: list[Image.Image]) -> list[Detections]:
        return [
            Detections(
                boxes_xyxy_px=torch.tensor([[0.0, 0.0, 300.0, 100.0]]).clamp(max=picture.width),
                scores=torch.tensor([0.2 if picture.width == 300 else 0.7]),
                labels=torch.tensor([0]),
                class_names=_NAMES,
                image_size=(picture.height, picture.width),
            )
            for picture in pictures
        ]

    found = predict_tiled(predict, Image.new("RGB", (300, 100)), tiles=Tiles(count=(1, 2), largest=1))
    assert found.boxes_xyxy_px.tolist() == [[0, 0, 300, 100]]
    assert found.scores.tolist() == pytest.approx([0.7])
    # A large object is the whole image's affair, unless that is not looked at.
    alone = predict_tiled(predict, Image.new("RGB", (300, 100)), tiles=Tiles(count=(1, 2)))
    assert (alone.boxes_xyxy_px.tolist(), alone.scores.tolist()) == ([[0, 0, 300, 100]], pytest.approx([0.2]))


@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 300), st.integers(4, 90), st.integers(4, 90)), max_size=6
    ),
    largest=st.sampled_from([0.05, 0.2, 0.5]),
)
def test_what_tiles_add_to_the_whole_image_is_small(boxes: list[tuple[int, int, int, int]], largest: float) -> None:
    """The whole image shows nothing here: every find is of a tile, and no longer than `largest` of the image."""
    corners = [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in boxes]
    seen = all_seeing(corners)

    def predict(pictures: list[Image.Image]) -> list[Detections]:
        return [
            one[torch.zeros(0, dtype=torch.int64)] if one.image_size == (400, 600) else one for one in seen(pictures)
        ]

    tiles = Tiles(count=(2, 2), overlap=0.5, largest=largest, merge="nms")
    found = predict_tiled(predict, chart(400, 600), tiles=tiles)
    shares = (found.boxes_xyxy_px[:, 2:] - found.boxes_xyxy_px[:, :2]) / torch.tensor([600.0, 400.0])
    assert (shares <= largest).all()
    assert len(found) or not any(w <= largest * 600 and h <= largest * 400 for _, _, w, h in boxes)


def test_nothing_found_and_a_limit() -> None:
    picture = chart(200, 300)
    nothing = predict_tiled(all_seeing([]), picture, tiles=Tiles(count=(2, 2)))
    assert (len(nothing), nothing.class_names, nothing.image_size) == (0, _NAMES, (200, 300))
    boxes = [(float(x), 10.0, x + 20.0, 30.0) for x in range(0, 280, 40)]
    best = predict_tiled(all_seeing(boxes), picture, tiles=Tiles(count=(2, 2)), max_detections=3)
    assert best.scores.tolist() == pytest.approx([0.9, 0.89, 0.88])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected either size_px or count, got None and None"),
        ({"size_px": 99, "count": (2, 2)}, "expected either size_px or count"),
        ({"size_px": 16}, "expected a size of at least 32 pixels, got 16"),
        ({"count": (0, 2)}, r"each at least 1, got \(0, 2\)"),
        ({"count": (2, 2), "overlap": 0.9}, "overlap from 0 to below 0.9, got 0.9"),
        ({"count": (2, 2), "merge": "soft"}, 'expected merge "nms" or "nmm", got \'soft\''),
        ({"count": (2, 2), "iou": 1.2}, r"expected an iou in 0\.\.1, got 1.2"),
    ],
)
def test_impossible_tiles(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiles(**settings)  # type: ignore[arg-type]
