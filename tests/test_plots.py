"""Images of matrices: dark is much, every cell where it belongs, light background, bad input refused."""

from __future__ import annotations

import math

import pytest
from PIL import Image, ImageChops, ImageFont

from cora.draw import colours_together
from cora.plots import Points, below_one_another, draw_confusion, draw_matrix, draw_points, side_by_side

WHITE, DARK, MISSING = (255, 255, 255), (8, 48, 107), (238, 238, 238)


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def identity(count: int) -> list[list[float]]:
    return [[float(i == j) for j in range(count)] for i in range(count)]


def extent(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Box around all pixels of a colour."""
    different = ImageChops.difference(picture, Image.new("RGB", picture.size, colour)).convert("L")
    box = different.point(lambda value: 255 if value == 0 else 0).getbbox()
    assert box is not None
    return box


def test_the_largest_values_are_dark_where_they_stand() -> None:
    # Cells too small for numbers, names of no letters: what is dark are cells and the end of the scale.
    picture = draw_matrix([[0.0, 1.0], [0.0, 0.0]], ["-", "-"], title="", number=" ")
    left, top, right, bottom = extent(picture.crop((0, 0, picture.width, picture.height - 60)), DARK)
    assert right - left == bottom - top == 40
    assert picture.getpixel((left - 20, top + 20)) == WHITE
    assert picture.getpixel((left + 20, top + 60)) == WHITE


def test_values_outside_the_range_count_as_its_ends_and_nan_as_missing() -> None:
    picture = draw_matrix([[-9.0, 9.0], [math.nan, 0.5]], ["-", "-"], title="", number=" ", low=0, high=1)
    left, top, _, _ = extent(picture.crop((0, 0, picture.width, picture.height - 60)), DARK)
    assert picture.getpixel((left - 20, top + 20)) == WHITE
    assert picture.getpixel((left - 20, top + 60)) == MISSING
    middle = picture.getpixel((left + 20, top + 60))
    assert isinstance(middle, tuple)
    assert WHITE[0] > middle[0] > DARK[0]


def test_numbers_are_written_only_where_they_fit() -> None:
    few, without = (draw_matrix(identity(3), names(3), title="", number=number) for number in ("{:.2f}", "{:9.99f}"))
    assert ImageChops.difference(few.crop((0, 0, few.width, few.height - 60)), without.crop(
        (0, 0, few.width, few.height - 60))).getbbox()  # fmt: skip
    many = [draw_matrix(identity(190), names(190), title="", number=n).crop((0, 0, 900, 900)) for n in ("{:.2f}", " ")]
    assert ImageChops.difference(*many).getbbox() is None


def test_names_make_room_for_themselves_and_very_many_are_left_out() -> None:
    short, long = (draw_matrix(identity(2), [word, "b"], title="") for word in ("a", "a rather long name"))
    assert long.width > short.width
    assert long.height > short.height
    cut, longer = (draw_matrix(identity(2), ["x" * count, "b"], title="") for count in (60, 99))
    assert cut.size == longer.size
    crowd = draw_matrix(identity(300), ["a rather long name"] * 300, title="")
    assert crowd.size == draw_matrix(identity(300), ["b"] * 300, title="").size


def test_breaks_are_lines_across() -> None:
    plain, broken = (draw_matrix(identity(4), names(4), title="", breaks=breaks) for breaks in ((), (2,)))
    box = ImageChops.difference(plain, broken).getbbox()
    assert box is not None
    assert box[2] - box[0] == box[3] - box[1] == 4 * 40


@pytest.mark.parametrize("count", [1, 2, 12, 40, 80])
def test_every_cell_of_a_confusion_has_its_value(count: int) -> None:
    counts = [[7 * int(i == j) for j in range(count)] for i in range(count)]
    drawn = draw_confusion(counts, ["-"] * count, title="")
    cell = min(40, 1800 // count)
    right, below = drawn.width - 16, drawn.height - 64
    if count < 12:
        right = 16 + 8 + math.ceil(ImageFont.load_default(15).getlength("-")) + count * cell
    for i in range(count):
        for j in range(count):
            corner = (right - (count - j) * cell, below - (count - i) * cell)
            inside = drawn.crop((corner[0] + 1, corner[1] + 1, corner[0] + cell - 1, corner[1] + cell - 1))
            shades = {colour for _, colour in inside.getcolors() or []}
            assert (DARK if i == j else WHITE) in shades
            assert len(shades) > 1, (i, j)


def test_shares_of_100_fit_into_the_smallest_cells() -> None:
    count = 130
    drawn = draw_confusion([[7 * int(i == j) for j in range(count)] for i in range(count)], ["-"] * count, title="")
    right, below = drawn.width - 16, drawn.height - 64
    for i in range(count):
        x, y = right - (count - i) * 18, below - (count - i) * 18
        full, empty = (
            drawn.crop((x + dx, y, x + dx + 18, y + 18)).getcolors() or [] for dx in (0, 18 if i == 0 else -18)
        )
        assert DARK in {colour for _, colour in full}
        assert len(full) > 1, "no number on 100 %"
        assert len(empty) > 1, "no number on 0 %"


def test_confusion_is_in_shares_of_a_row() -> None:
    counts = draw_confusion([[30, 10], [0, 0]], ["cat", "dog"], title="t")
    shares = draw_confusion([[3, 1], [0, 0]], ["cat", "dog"], title="t")
    assert ImageChops.difference(counts, shares).getbbox() is None
    below = counts.height - 64 - 40
    row = counts.crop((0, below, counts.width, below + 40))
    assert row.getcolors() is not None
    missing = sum(number for number, colour in row.getcolors() or [] if colour == MISSING)
    assert missing >= 2 * 40 * 40


def test_pictures_stand_beside_each_other() -> None:
    first, second = Image.new("RGB", (3, 5), "red"), Image.new("RGB", (2, 7), "blue")
    whole = side_by_side([first, second])
    assert whole.size == (5, 7)
    assert [whole.getpixel(place) for place in ((2, 4), (2, 5), (3, 6))] == [(255, 0, 0), WHITE, (0, 0, 255)]


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [[1.0], [2.0]]])
def test_a_matrix_of_another_size_is_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="expected a row and a column for each of 2 names"):
        draw_matrix(values, ["a", "b"], title="")


def test_nothing_beside_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        side_by_side([])


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_the_scale_of_few_classes_reaches_its_maximum(count: int) -> None:
    picture = draw_matrix([[0.0] * count] * count, ["-"] * count, title="")
    below = picture.crop((0, picture.height - 60, picture.width, picture.height))
    right = extent(below, DARK)[2]
    text = ImageChops.difference(below, Image.new("RGB", below.size, "white")).getbbox()
    assert text is not None
    assert right + 6 < text[2] < picture.width  # the number behind the darkest end is whole


def scattered(classes: list[str], groups: list[int]) -> Image.Image:
    places = [(float(i), float(i % 3)) for i in range(len(classes))]
    labels = [f"members of {group}" for group in range(max(groups) + 1)]
    return draw_points({"one": places, "other": places}, Points(classes, groups), group_names=labels, title="Points")


def test_ten_classes_of_points_have_colours_and_the_rest_is_grey() -> None:
    few = scattered(names(10), [0] * 10)
    colours = [colour for colour in colours_together([names(10)]).values() if extent(few, colour)]
    assert len(colours) == 10
    many = scattered([*names(10) * 2, *names(14)[10:]], [0] * 24)
    assert all(extent(many, colour) for colour in colours)
    # Edges of letters are grey, too.
    grey = [
        dict((colour, number) for number, colour in picture.getcolors(1 << 20) or [])[175, 175, 175]
        for picture in (few, many)
    ]
    assert grey[1] - grey[0] > 4 * 2 * 12  # four marks in each of two panels, some half covered by others


def test_groups_of_points_have_marks_of_their_own() -> None:
    panels = [scattered(["cat"] * 3, [group] * 3) for group in range(6)]
    for place, one in enumerate(panels):
        # The number and the legend differ, too; of the panel only the mark in its corner is looked at.
        corners = [other.crop((16, 90, 60, 140)) for other in panels[:place]]
        mine = one.crop((16, 90, 60, 140))
        assert all(ImageChops.difference(mine, corner).getbbox() for corner in corners)


def test_points_without_a_spread_are_drawn_and_other_numbers_of_points_refused() -> None:
    points = Points(["cat", "cat"], [0, 0])
    assert draw_points({"": [(1.0, 2.0)] * 2}, points, group_names=["cats"], title="").width > 560
    with pytest.raises(ValueError, match="in every panel"):
        draw_points({"": [(1.0, 2.0)]}, points, group_names=["cats"], title="")
    with pytest.raises(ValueError, match="in every panel"):
        draw_points({}, points, group_names=["cats"], title="")


def test_images_stand_below_one_another() -> None:
    red, blue = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (5, 4), "blue")
    whole = below_one_another([red, blue])
    assert whole.size == (5, 6)
    assert [whole.getpixel(place) for place in ((0, 0), (4, 0), (0, 2))] == [(255, 0, 0), WHITE, (0, 0, 255)]
    with pytest.raises(ValueError, match="at least one image"):
        below_one_another([])
