"""Drawn boxes: right place, same colour for a name, labels readable and inside at any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.draw import _overlap, _place, class_colour, draw_boxes, text_colour


def test_original_stays_and_frame_is_drawn() -> None:
    image = Image.new("RGB", (200, 160), "white")
    drawn = draw_boxes(image, torch.tensor([[40.0, 50.0, 120.0, 130.0]]), ["cat"], torch.tensor([0.87]))
    assert image.getcolors() == [(200 * 160, (255, 255, 255))]
    assert drawn.size == image.size
    for pixel in [(40, 90), (119, 90), (80, 50), (80, 129)]:
        assert drawn.getpixel(pixel) == class_colour("cat")
    assert drawn.getpixel((80, 90)) == (255, 255, 255)
    assert drawn.getpixel((150, 90)) == (255, 255, 255)


def test_nothing_to_draw_changes_nothing() -> None:
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    assert draw_boxes(image, torch.zeros(0, 4), [], torch.zeros(0)).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert draw_boxes(Image.new(mode, (50, 40)), [[1, 1, 30, 30]], ["cat"]).mode == "RGB"


def test_numbers_must_agree() -> None:
    with pytest.raises(ValueError, match="got 1 boxes, 2 names, 1 scores"):
        draw_boxes(Image.new("RGB", (9, 9)), [[0, 0, 4, 4]], ["cat", "dog"], [0.5])


def test_colour_depends_on_the_name_alone() -> None:
    assert class_colour("remote control") == class_colour("remote control")
    names = ["person", "cat", "dog", "car", "bus", "chair", "cup", "laptop", "tie", "bird"]
    assert len({class_colour(name) for name in names}) == len(names)


@given(st.text(min_size=1, max_size=20))
def test_text_can_be_read_on_its_colour(name: str) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    background = class_colour(name)
    dark, light = sorted([luminance(background), luminance(text_colour(background))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, level AA


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    boxes=st.lists(st.tuples(*[st.floats(-50, 350)] * 4), max_size=6),
    name=st.text(max_size=40),
)
def test_any_box_on_any_size(
    width: int, height: int, boxes: list[tuple[float, float, float, float]], name: str
) -> None:
    drawn = draw_boxes(Image.new("RGB", (width, height)), boxes, [name] * len(boxes), [0.5] * len(boxes))
    assert drawn.size == (width, height)


@pytest.mark.parametrize("size", [(48, 32), (320, 240), (2000, 1500)])
def test_label_grows_with_the_picture(size: tuple[int, int]) -> None:
    width, height = size
    frame = [width * 0.4, height * 0.6, width * 0.9, height * 0.9]
    drawn = np.asarray(draw_boxes(Image.new("RGB", size, "white"), [frame], ["cup"]))
    above = drawn[: round(height * 0.6)]
    label = (above == class_colour("cup")).all(axis=-1)
    rows = np.flatnonzero(label.any(axis=1))
    assert len(rows) >= max(9, height * 0.02)
    letters = (above == text_colour(class_colour("cup"))).all(axis=-1) & (above != 255).any(axis=-1)
    assert letters.any() or text_colour(class_colour("cup")) == (255, 255, 255)


def test_labels_avoid_each_other() -> None:
    frame = (100, 100, 200, 200)
    places: list[tuple[int, int, int, int]] = []
    for _ in range(12):
        place = _place(frame, (60, 16), places, 400, 300)
        assert 0 <= place[0] < place[2] <= 400
        assert 0 <= place[1] < place[3] <= 300
        assert all(_overlap(place, other) == 0 for other in places)
        places.append(place)
