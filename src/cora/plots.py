"""Images of square matrices over classes (which are alike, which are taken for which; dark is much), and of points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from cora.draw import Colour, colours_together, text_colour
from cora.draw.fonts import Font, font_for, shorten

#: White to dark blue, evenly spaced; readable in grey and to colour-blind eyes, since it only darkens.
_STOPS: tuple[Colour, ...] = ((255, 255, 255), (198, 219, 239), (66, 146, 198), (8, 48, 107))
_INK, _ZERO, _FAINT, _MISSING = (30, 30, 30), (150, 150, 150), (200, 200, 200), (238, 238, 238)
_LARGEST_CELL, _LABELLED_CELL, _MARGIN = 40, 12, 16
#: Room for a share of 100 %.
_NUMBERED_CELL = 18
#: Letters of numbers in cells, in pixels: from the size of names down to what can be read.
_SMALLEST_NUMBER = 8
_LONGEST_NAME = 26

_SCALE_LENGTH = 160

#: Classes that have a colour of their own among points; more could not be told apart.
_COLOURED = 10
_PANEL, _MARK, _FINER = 560, 9, 3
_REST: Colour = (175, 175, 175)
#: Corners of marks, in halves of their size; a circle has none.
_MARKS: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
    ((0, -1.3), (1.0, 0), (0, 1.3), (-1.0, 0)),
    ((0, 1.2), (1.15, -0.85), (-1.15, -0.85)),
    (
        *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
        *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ),
)


class Points(NamedTuple):
    """One class and one group for every point, which are the same in all panels."""

    classes: Sequence[str]
    groups: Sequence[int]


def draw_matrix(
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    low: float = 0.0,
    high: float = 1.0,
    number: str = "{:.2f}",
    breaks: Sequence[int] = (),
) -> Image.Image:
    """A labelled image of a matrix on a light background.

    Up to about 200 classes every row and column has its name; above that names would not be readable and are left
    out. Numbers are written into all cells, in letters that let the longest of them fit, or into none.

    Args:
        values: C rows of C numbers; NaN is drawn as an empty grey cell.
        names: C names, of the rows and of the columns.
        title: first line.
        subtitle: second line, such as what rows and columns are.
        low: number that is white, as is what is below it.
        high: number that is darkest, as is what is above it.
        number: how a number is written.
        breaks: a line is drawn before each of these rows and columns.

    Raises:
        ValueError: the matrix is empty or does not have a row and a column for every name.
    """
    count = len(names)
    if not count or len(values) != count or any(len(row) != count for row in values):
        got = f"{len(values)} rows of {sorted({len(row) for row in values})} numbers"
        raise ValueError(f"matrix: expected a row and a column for each of {count} names, got {got}")
    cell = max(2, min(_LARGEST_CELL, max(_NUMBERED_CELL, 1800 // count) if count <= 200 else 2400 // count))
    labelled = cell >= _LABELLED_CELL
    font, heading = ImageFont.load_default(max(10, min(15, cell - 2))), ImageFont.load_default(20)
    shown = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    band = 8 + math.ceil(max(font.getlength(name) for name in shown)) if labelled else 0
    left, top = _MARGIN + band, _MARGIN + 56 + band
    side = cell * count
    scale = _SCALE_LENGTH + 12 + math.ceil(sum(font.getlength(number.format(end)) for end in (low, high)))
    width = (
        max(left + side, left + scale, _MARGIN + math.ceil(max(heading.getlength(title), font.getlength(subtitle))))
        + _MARGIN
    )
    picture = Image.new("RGB", (width, top + side + 64), "white")
    canvas = ImageDraw.Draw(picture)
    canvas.text((_MARGIN, _MARGIN), title, fill=_INK, font=heading)
    canvas.text((_MARGIN, _MARGIN + 28), subtitle, fill=_INK, font=font)
    texts = [["" if math.isnan(value) else number.format(value) for value in row] for row in values]
    letters = _number_font({text for row in texts for text in row}, cell)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = _MISSING if math.isnan(value) else _shade((value - low) / (high - low) if high > low else 0.0)
            x, y = left + j * cell, top + i * cell
            canvas.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
            if letters is not None:
                middle = (x + cell / 2, y + cell / 2)
                ink = text_colour(colour) if value else _ZERO  # most cells of a good matrix are zero
                canvas.text(middle, texts[i][j], fill=ink, font=letters, anchor="mm")
    for place in breaks:
        at = place * cell
        canvas.line((left, top + at, left + side, top + at), fill=_INK)
        canvas.line((left + at, top, left + at, top + side), fill=_INK)
    canvas.rectangle((left - 1, top - 1, left + side, top + side), outline=_FAINT)
    if labelled:
        for i, name in enumerate(shown):
            centre = round((i + 0.5) * cell)
            canvas.text((left - 6, top + centre), name, fill=_INK, font=font, anchor="rm")
            upright = _upright(name, font)
            picture.paste(_INK, (left + centre - upright.width // 2, top - 6 - upright.height), upright)
    _scale(canvas, left, top + side + 16, low, high, number, font)
    return picture


def draw_confusion(
    counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str, breaks: Sequence[int] = ()
) -> Image.Image:
    """An image of which class is taken for which, each row as shares of its own sum; rows without a box are grey.

    Args:
        counts: C rows (true or annotated class) of C numbers of boxes (class chosen for them).
        names: C names.
        title: first line.
        breaks: a line is drawn before each of these rows and columns.
    """
    shares = [[100 * value / sum(row) if sum(row) else math.nan for value in row] for row in counts]
    return draw_matrix(
        shares,
        names,
        title=title,
        subtitle="rows: annotated, columns: chosen; % of the row's boxes, grey: it has none",
        high=100.0,
        number="{:.0f}",
        breaks=breaks,
    )


def draw_points(
    panels: Mapping[str, Sequence[tuple[float, float]]],
    points: Points,
    *,
    group_names: Sequence[str],
    title: str,
    subtitle: str = "",
) -> Image.Image:
    """Panels of the same points side by side on the same axes: coloured by class, marked by group, with a legend.

    The ten classes with most points have colours, the others are grey. The number of a group stands in the middle of
    its points. There are six marks; with more groups they repeat.

    Args:
        panels: heading -> (x, y) of n points.
        points: their classes and groups, n each.
        group_names: what the legend says of each group.
        title: first line.
        subtitle: second line.

    Raises:
        ValueError: no panel, no point, or panels of other numbers of points.
    """
    count = len(points.classes)
    lengths = [len(places) for places in (*panels.values(), points.groups)]
    if not panels or {*lengths} != {count} or not count:
        raise ValueError(
            f"points: expected a place in every panel and a group for each of {count} points, got {lengths}"
        )
    sizes = {name: points.classes.count(name) for name in sorted(set(points.classes))}
    shown = sorted(sizes, key=lambda name: -sizes[name])[:_COLOURED]
    colours = colours_together([shown])
    legend = _legend(points, shown, colours, group_names)
    heading, font = ImageFont.load_default(20), ImageFont.load_default(15)
    width = _MARGIN + len(panels) * (_PANEL + _MARGIN) + legend.width
    width = max(width, 2 * _MARGIN + math.ceil(max(heading.getlength(title), font.getlength(subtitle))))
    top = _MARGIN + 84
    every = [place for places in panels.values() for place in places]
    low, high = [min(ends) for ends in zip(*every, strict=True)], [max(ends) for ends in zip(*every, strict=True)]
    extent = max(high[0] - low[0], high[1] - low[1]) or 1.0
    # As high as the points need, since no axis is stretched.
    height = round((_PANEL - 4 * _MARK) * max(0.4, (high[1] - low[1]) / extent)) + 4 * _MARK
    picture = Image.new("RGB", (width, top + max(height, legend.height) + _MARGIN), "white")
    canvas = ImageDraw.Draw(picture)
    canvas.text((_MARGIN, _MARGIN), title, fill=_INK, font=heading)
    canvas.text((_MARGIN, _MARGIN + 28), subtitle, fill=_INK, font=font)
    for number, (name, places) in enumerate(panels.items()):
        left = _MARGIN + number * (_PANEL + _MARGIN)
        canvas.text((left, top - 24), name, fill=_INK, font=font)
        inside = [tuple((place[axis] - low[axis]) / extent for axis in (0, 1)) for place in places]
        picture.paste(_panel(inside, points, colours, height), (left, top))
    picture.paste(legend, (_MARGIN + len(panels) * (_PANEL + _MARGIN), top))
    return picture


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images in one row on white, their upper edges in line.

    Raises:
        ValueError: no image.
    """
    return _joined("side_by_side", pictures, axis=0)


def _panel(
    places: Sequence[tuple[float, ...]], points: Points, colours: Mapping[str, Colour], height: int
) -> Image.Image:
    """Points in units of the panel's width, drawn larger and shrunk, so that edges are smooth."""
    side = _PANEL * _FINER
    panel = Image.new("RGB", (side, height * _FINER), "white")
    canvas = ImageDraw.Draw(panel)
    room = side - 4 * _MARK * _FINER
    at = [tuple(2 * _MARK * _FINER + share * room for share in place) for place in places]
    # Mixed, so that no class lies on top of all others.
    for i in sorted(range(len(at)), key=lambda i: i * 2654435761 % 2**32):
        _draw_mark(canvas, at[i], points.groups[i], colours.get(points.classes[i], _REST), _MARK * _FINER)
    letters = ImageFont.load_default(16 * _FINER)
    for group in sorted(set(points.groups)):
        mine = [place for place, own in zip(at, points.groups, strict=True) if own == group]
        x, y = (sum(place[axis] for place in mine) / len(mine) for axis in (0, 1))
        half = (letters.getlength(str(group)) / 2 + 5 * _FINER, 11 * _FINER)
        frame = (x - half[0], y - half[1], x + half[0], y + half[1])
        canvas.rounded_rectangle(frame, radius=4 * _FINER, fill="white", outline=_INK, width=_FINER)
        canvas.text((x, y), str(group), fill=_INK, font=letters, anchor="mm")
    canvas.rectangle((0, 0, panel.width - 1, panel.height - 1), outline=_FAINT, width=_FINER)
    return panel.resize((_PANEL, height), Image.Resampling.LANCZOS)


def _draw_mark(canvas: ImageDraw.ImageDraw, place: tuple[float, ...], group: int, colour: Colour, size: float) -> None:
    half, (x, y) = size / 2, place
    corners = _MARKS[group % len(_MARKS)]
    if corners:
        canvas.polygon([(x + half * u, y + half * v) for u, v in corners], fill=colour, outline="white", width=2)
    else:
        canvas.ellipse((x - half, y - half, x + half, y + half), fill=colour, outline="white", width=2)


def _legend(
    points: Points, shown: Sequence[str], colours: Mapping[str, Colour], group_names: Sequence[str]
) -> Image.Image:
    rows: list[tuple[str, int, Colour]] = [
        (f"{name} ({points.classes.count(name)})", 0, colours[name]) for name in shown
    ]
    others = len(set(points.classes)) - len(shown)
    if others:
        rows.append((f"{others} other classes ({sum(name not in colours for name in points.classes)})", 0, _REST))
    marks = [(f"{group}: {name}", group, _INK) for group, name in enumerate(group_names)]
    line, room = 22, 330
    legend = Image.new("RGB", (room + 24 + _MARGIN, (len(rows) + len(marks) + 3) * line), "white")
    canvas, bold = ImageDraw.Draw(legend), ImageFont.load_default(15)
    y = 0
    for head, entries in (("class (boxes)", rows), ("group of regions", marks)):
        canvas.text((0, y), head, fill=_INK, font=bold)
        for text, group, colour in entries:
            y += line
            _draw_mark(canvas, (8, y + 9), group, colour, 12)
            written, font = font_for(text, 14)
            canvas.text((22, y + 9), shorten(written, font, room), fill=_INK, font=font, anchor="lm")
        y += 2 * line
    return legend


def below_one_another(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images in one column on white, their left edges in line.

    Raises:
        ValueError: no image.
    """
    return _joined("below_one_another", pictures, axis=1)


def _joined(function: str, pictures: Sequence[Image.Image], *, axis: int) -> Image.Image:
    """Images one after the other along the axis, 0 for x and 1 for y; `function` is for the error."""
    if not pictures:
        raise ValueError(f"{function}: expected at least one image, got none")
    size = [max(picture.width for picture in pictures), max(picture.height for picture in pictures)]
    size[axis] = sum(picture.size[axis] for picture in pictures)
    whole = Image.new("RGB", (size[0], size[1]), "white")
    corner = [0, 0]
    for picture in pictures:
        whole.paste(picture, (corner[0], corner[1]))
        corner[axis] += picture.size[axis]
    return whole


def _shade(share: float) -> Colour:
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(place), len(_STOPS) - 2)
    first, second, part = _STOPS[index], _STOPS[index + 1], place - index
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _number_font(texts: set[str], cell: int) -> Font | None:
    """The largest font in which all texts fit into a cell; None where that could not be read."""
    for size in range(max(10, min(15, cell - 2)), _SMALLEST_NUMBER - 1, -1):
        font = ImageFont.load_default(size)
        if max(font.getlength(text) for text in texts) <= cell - 2:
            return font
    return None


def _upright(text: str, font: Font) -> Image.Image:
    """The text turned by a quarter, as a mask."""
    left, top, right, bottom = font.getbbox(text)
    flat = Image.new("L", (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))), 0)
    ImageDraw.Draw(flat).text((-left, -top), text, fill=255, font=font)
    return flat.transpose(Image.Transpose.ROTATE_90)


def _scale(canvas: ImageDraw.ImageDraw, x: int, y: int, low: float, high: float, number: str, font: Font) -> None:
    """What the shades stand for."""
    start = x + math.ceil(font.getlength(number.format(low))) + 6
    for step in range(_SCALE_LENGTH):
        canvas.line((start + step, y, start + step, y + 14), fill=_shade(step / (_SCALE_LENGTH - 1)))
    canvas.rectangle((start - 1, y - 1, start + _SCALE_LENGTH, y + 15), outline=_FAINT)
    canvas.text((start - 6, y + 7), number.format(low), fill=_INK, font=font, anchor="rm")
    canvas.text((start + _SCALE_LENGTH + 6, y + 7), number.format(high), fill=_INK, font=font, anchor="lm")
