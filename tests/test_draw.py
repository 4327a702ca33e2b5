"""Drawn boxes: right place, same colour for a name, labels readable and inside at any size."""

from importlib.util import find_spec
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from cora.draw import (
    class_colour,
    class_colours,
    colours_together,
    contact_sheet,
    draw_boxes,
    numbered_colour,
    text_colour,
)
from cora.draw.colours import PALETTE, colour_distance
from cora.draw.fonts import _choose, font_for, shorten
from cora.draw.places import Box, Places
from cora.errors import CoraError


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


def test_a_name_by_itself_has_one_colour() -> None:
    assert class_colour("remote control") == class_colour("remote control") == class_colours(["remote control"])[
        "remote control"
    ]  # fmt: skip
    assert class_colours(["cat", "dog"])["cat"] == class_colour("cat")


def test_distance_of_colours_is_that_of_oklab() -> None:
    assert colour_distance((0, 0, 0), (255, 255, 255)) == pytest.approx(1, abs=1e-4)
    # Ottosson's table: red is L 0.628, a 0.225, b 0.126; blue L 0.452, a -0.032, b -0.312.
    expected = np.linalg.norm(np.array([0.62796, 0.22486, 0.12585]) - [0.45201, -0.03246, -0.31153])
    assert colour_distance((255, 0, 0), (0, 0, 255)) == pytest.approx(expected, abs=1e-4)


def test_colours_that_follow_each_other_are_clearly_different() -> None:
    assert colour_distance((34, 236, 155), (54, 250, 60)) < 0.11  # two greens, for comparison
    for number in range(2 * len(PALETTE)):
        assert colour_distance(numbered_colour(number), numbered_colour(number + 1)) > 0.25
    pairs = [(a, b) for place, a in enumerate(PALETTE) for b in PALETTE[:place]]
    assert min(colour_distance(a, b) for a, b in pairs) > 0.16


@pytest.mark.parametrize(
    "names", [["cup", "spoon"], ["cup", "spoon", "saucer"], ["cat", "dog", "person", "car", "bus"]]
)
def test_everyday_neighbours_are_clearly_different(names: list[str]) -> None:
    colours = class_colours(names)
    assert all(colour_distance(colours[a], colours[b]) > 0.25 for a, b in pairwise(names))


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=70))
def test_classes_of_a_list_are_told_apart(names: list[str]) -> None:
    colours = class_colours(names)
    assert list(colours) == names
    assert class_colours([*names, *names]) == colours  # a name has one colour, however often it comes
    assert len({colours[name] for name in names[: len(PALETTE)]}) == min(len(names), len(PALETTE))
    distances = [colour_distance(colours[a], colours[b]) for a, b in pairwise(names)]
    assert all(distance > 0.16 for distance in distances)
    assert all(distance > 0.25 for distance in distances[:10])
    if names:
        assert colours[names[0]] == class_colour(names[0])


def test_letters_of_a_given_height() -> None:
    image, box = Image.new("RGB", (400, 300), "white"), [(100, 100, 300, 250)]
    colour = class_colours(["cup"])["cup"]
    heights = []
    for letters in (10, 20, 40):
        drawn = np.asarray(draw_boxes(image, box, ["cup"], letters_px=letters))[:100]
        heights.append(np.flatnonzero((drawn == colour).all(axis=-1).any(axis=1)).size)
    assert heights == sorted(set(heights))
    assert heights[-1] >= 40


def test_labels_of_10_megapixels_can_be_read_on_a_screen() -> None:
    drawn = draw_boxes(Image.new("RGB", (3840, 2560), "white"), [(900, 900, 3000, 2000)], ["cup"], [0.5])
    shown = np.asarray(drawn.resize((1200, 800), Image.Resampling.BOX)).astype(int)
    near = np.abs(shown - class_colours(["cup"])["cup"]).max(axis=-1) < 30
    rows = np.flatnonzero(near[:281, 281:400].any(axis=1))
    assert rows.size >= 20  # pixels of the screen, letters and padding
    assert np.flatnonzero(near[400, 270:300]).size >= 3  # the line


@given(st.lists(st.lists(st.sampled_from([f"class {i}" for i in range(60)]), max_size=4), max_size=4))
def test_classes_of_one_image_differ_clearly_and_keep_their_colours(groups: list[list[str]]) -> None:
    colours = colours_together(groups)
    assert colours.keys() == {name for group in groups for name in group}
    for group in groups:
        for one, other in combinations(dict.fromkeys(group), 2):
            assert colour_distance(colours[one], colours[other]) > 0.16, (one, other)
    # Neither the order of the images nor that of their classes matters.
    assert colours_together([group[::-1] for group in groups[::-1]]) == colours


def test_a_few_classes_of_many_images_have_colours_of_their_own() -> None:
    names = ["person", "cup", "spoon", "bottle", "handbag", "chair", "couch", "laptop"]
    colours = colours_together(combinations(names, 2))
    assert len(set(colours.values())) == len(names)
    for three in combinations(names, 3):
        distances = [colour_distance(*pair) for pair in combinations(colours_together([three]).values(), 2)]
        assert min(distances) > 0.25
    alone = colours_together([[name] for name in names])
    assert len(set(alone.values())) == len(names)
    assert colours_together([["cup"]]) == {"cup": class_colour("cup")}
    crowd = colours_together([[f"class {i}" for i in range(20)]])
    assert len(set(crowd.values())) == len(PALETTE)


def test_given_colours_are_drawn() -> None:
    boxes = [(10, 20, 60, 90), (100, 20, 160, 90)]
    drawn = draw_boxes(Image.new("RGB", (200, 100)), boxes, ["cat", "cat"], colours=[(1, 2, 3), (4, 5, 6)])
    assert [drawn.getpixel(place) for place in ((10, 60), (100, 60))] == [(1, 2, 3), (4, 5, 6)]
    with pytest.raises(ValueError, match="got 1 boxes, 1 names, 2 colours"):
        draw_boxes(Image.new("RGB", (9, 9)), [(0, 0, 4, 4)], ["cat"], colours=[(1, 2, 3)] * 2)


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


def shared_pixels(one: Box, other: Box) -> int:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0


def test_labels_avoid_each_other() -> None:
    frame = (100, 100, 200, 200)
    places = Places(frames=[frame], width=400, height=300)
    found: list[Box] = []
    for _ in range(12):
        place, hidden = places.find(frame, (60, 16))
        assert hidden == 0
        assert 0 <= place[0] < place[2] <= 400
        assert 0 <= place[1] < place[3] <= 300
        assert all(shared_pixels(place, other) == 0 for other in found)
        places.take(place)
        found.append(place)


def test_labels_avoid_other_objects() -> None:
    frame, above = (100, 100, 160, 160), (90, 70, 170, 100)
    place, _ = Places(frames=[frame, above], width=400, height=300).find(frame, (60, 16))
    assert shared_pixels(place, above) == 0


@given(
    frame=st.tuples(st.integers(0, 90), st.integers(0, 70), st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 100), st.integers(1, 80)),
    taken=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 70)), max_size=5),
)
def test_places_are_inside_and_say_what_they_hide(
    frame: Box, size: tuple[int, int], taken: list[tuple[int, int]]
) -> None:
    frame = (frame[0], frame[1], frame[0] + frame[2], frame[1] + frame[3])
    places = Places(frames=[frame], width=100, height=80)
    others = [(left, top, left + 20, top + 10) for left, top in taken]
    for other in others:
        places.take(other)
    place, hidden = places.find(frame, size)
    assert (place[2] - place[0], place[3] - place[1]) == size
    assert 0 <= place[0] < place[2] <= 100
    assert 0 <= place[1] < place[3] <= 80
    assert hidden == sum(shared_pixels(place, other) for other in others)


def test_a_crowd_leaves_most_of_the_picture_visible_and_names_every_class() -> None:
    corners = [(x, y) for y in range(0, 480, 24) for x in range(0, 640, 26)]
    boxes = [(x, y, x + 18, y + 16) for x, y in corners]
    names = [f"thing {'abcdefgh'[number % 8]}" for number in range(len(boxes))]
    assert len(boxes) == 500
    drawn = np.asarray(draw_boxes(Image.new("RGB", (640, 480), "white"), boxes, names, [0.5] * 500))
    assert (drawn == 255).all(axis=-1).mean() > 0.45
    for name, colour in class_colours(names).items():
        coloured = (drawn == colour).all(axis=-1)
        # A frame fills no 9 x 9 pixels; only a label does.
        windows = np.lib.stride_tricks.sliding_window_view(coloured, (9, 1)).all(axis=(-1, -2))
        assert windows.any(), name


def test_small_objects_stay_visible_on_large_pictures() -> None:
    drawn = np.asarray(draw_boxes(Image.new("RGB", (4000, 3000), "white"), [(2000, 2000, 2040, 2040)], ["cup"]))
    assert (drawn[2005:2035, 2005:2035] == 255).all()


def test_filling_is_transparent_and_inside_the_box() -> None:
    image = Image.new("RGB", (100, 100), "white")
    drawn = draw_boxes(image, [(40, 50, 80, 90)], ["cat"], fill=0.25)
    expected = [round(0.75 * 255 + 0.25 * channel) for channel in class_colour("cat")]
    assert np.abs(np.array(drawn.getpixel((60, 70))) - expected).max() <= 1
    assert drawn.getpixel((85, 70)) == (255, 255, 255)
    many = draw_boxes(image, [(40, 50, 80, 90)] * 20, ["cat"] * 20, fill=0.25)
    assert many.getpixel((60, 70)) == drawn.getpixel((60, 70))
    with pytest.raises(ValueError, match=r"expected an opacity in 0\.\.1, got 1\.5"):
        draw_boxes(image, [], [], fill=1.5)


def test_captions_replace_names_and_leave_the_colours() -> None:
    image, boxes = Image.new("RGB", (200, 100), "white"), [(20, 40, 90, 90)]
    drawn = draw_boxes(image, boxes, ["cat"], captions=["cat #12"])
    assert drawn.tobytes() != draw_boxes(image, boxes, ["cat"]).tobytes()
    assert drawn.getpixel((20, 80)) == class_colour("cat")
    with pytest.raises(ValueError, match="got 1 boxes, 1 names, 2 captions"):
        draw_boxes(image, boxes, ["cat"], captions=["a", "b"])


@pytest.mark.parametrize("name", ["café", "Żółw", "Хлеб", "σκύλος"])
def test_letters_of_europe_are_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORA_FONT", raising=False)
    written, font = font_for(name, 20)
    nothing = bytes(font.getmask("\U0010ffff"))
    assert written == name
    assert all(bytes(font.getmask(letter)) != nothing for letter in name)


def test_accents_go_where_no_font_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cora.draw.fonts._exists", lambda face: False)
    _choose.cache_clear()
    assert font_for("café", 20)[0] == "cafe"
    _choose.cache_clear()


def test_a_letter_without_a_font_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cora.draw.fonts._exists", lambda face: False)
    _choose.cache_clear()
    for score in (0.1, 0.2):
        draw_boxes(Image.new("RGB", (99, 99)), [(9, 9, 60, 60)], ["Хлеб"], [score])
    _choose.cache_clear()
    assert caplog.text.count("CORA_FONT") == 1


def test_own_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = Path(str(find_spec("matplotlib").submodule_search_locations[0]))  # type: ignore[union-attr, index]
    monkeypatch.setenv("CORA_FONT", str(shipped / "mpl-data" / "fonts" / "ttf" / "DejaVuSerif.ttf"))
    assert font_for("cat", 20)[1].getname() == ("DejaVu Serif", "Book")  # type: ignore[union-attr]
    (tmp_path / "text.ttf").write_text("no font")
    monkeypatch.setenv("CORA_FONT", str(tmp_path / "text.ttf"))
    with pytest.raises(CoraError, match="CORA_FONT: expected the path of a font file"):
        draw_boxes(Image.new("RGB", (99, 99)), [(9, 9, 60, 60)], ["cat"])


@given(text=st.text(st.characters(codec="ascii", categories=["L", "N", "Z"]), max_size=60), room=st.integers(20, 300))
def test_shortened_text_fits_and_keeps_both_ends(text: str, room: int) -> None:
    font = ImageFont.load_default(12)
    short = shorten(text, font, room, tail=0.5)
    assert font.getlength(short) <= room
    assert short == text or "…" in short
    if "…" in short:
        start, end = short.split("…")
        assert text.startswith(start)
        assert text.endswith(end)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_contact_sheet_shows_every_picture(count: int) -> None:
    colours = [class_colour(f"picture {number}") for number in range(count)]
    pictures = (Image.new("RGB", size, colour) for size, colour in zip([(300, 200), (3, 9)] * 4, colours, strict=False))
    drawn = np.asarray(contact_sheet(pictures, [f"one\ntwo {number}" for number in range(count)], cell_px=64))
    for colour in colours:
        rows, columns = np.nonzero((drawn == colour).all(axis=-1))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 64


def test_contact_sheet_of_wrong_input() -> None:
    with pytest.raises(ValueError, match="expected at least one image"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="got 20, None"):
        contact_sheet([Image.new("RGB", (9, 9))], ["a"], cell_px=20)
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([Image.new("RGB", (9, 9))], ["a", "b"])


def test_a_name_without_width_on_an_image_without_room() -> None:
    drawn = draw_boxes(Image.new("RGB", (1, 40)), [(0, 0, 1, 40)], ["\u200b"], letters_px=40)
    assert drawn.size == (1, 40)
