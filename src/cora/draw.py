"""Boxes with names on a picture."""

import colorsys
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first pixels outside."""

_SMALLEST_FONT = 8
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_boxes(image: Image.Image, boxes_xyxy_px: Any, names: Sequence[str], scores: Any | None = None) -> Image.Image:
    """A copy of a picture with boxes and labels drawn on it.

    A name has the same colour in every picture. Labels stay inside the picture and avoid each other; where
    boxes come best first, the best get the first choice of place and lie on top.

    Args:
        image: any Pillow image.
        boxes_xyxy_px: K boxes [K, 4] (x1, y1, x2, y2) in pixels of `image`: tensor, array or nested list.
        names: K names.
        scores: K numbers in 0..1, printed with two digits behind the names.

    Raises:
        ValueError: the numbers of boxes, names and scores differ.
    """
    boxes = _rows(boxes_xyxy_px)
    numbers = None if scores is None else _rows(scores)
    if len(names) != len(boxes) or (numbers is not None and len(numbers) != len(boxes)):
        got = f"{len(boxes)} boxes, {len(names)} names" + ("" if numbers is None else f", {len(numbers)} scores")
        raise ValueError(f"expected as many boxes as names and scores, got {got}")
    picture = image.convert("RGB") if image.mode != "RGB" else image.copy()
    canvas = ImageDraw.Draw(picture)
    width, height = picture.size
    line = max(1, round(min(width, height) / 240))
    font_size = max(11, round((width * height) ** 0.5 / 40))

    frames = [_inside(box, width, height) for box in boxes]
    for frame, name in reversed(list(zip(frames, names, strict=True))):
        left, top, right, bottom = frame
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=class_colour(name), width=line)

    taken: list[Box] = []
    for index, (frame, name) in enumerate(zip(frames, names, strict=True)):
        text = name if numbers is None else f"{name} {numbers[index]:.2f}"
        text, font, padding = _fit(text, font_size, width)
        letters = font.getbbox(text)
        # Height comes from letters that reach up and down, so that all labels of a picture are equally high.
        _, high, _, low = font.getbbox("Ágjy")
        size = (int(letters[2] - letters[0]) + 2 * padding, int(low - high) + 2 * padding)
        place = _place(frame, size, taken, width, height)
        taken.append(place)
        colour = class_colour(name)
        canvas.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        origin = (place[0] + padding - letters[0], place[1] + padding - high)
        canvas.text(origin, text, fill=text_colour(colour), font=font)
    return picture


def class_colour(name: str) -> Colour:
    """RGB of a class, from nothing but its name."""
    digest = zlib.crc32(name.encode())
    # crc32 of short names differs mostly in its low bits; a multiplicative hash spreads them over all.
    mixed = (digest * 2654435761) & 0xFFFFFFFF
    hue, saturation, value = (
        (mixed >> 16) / 65536,
        0.7 + 0.3 * (mixed & 255) / 255,
        0.8 + (mixed >> 8 & 255) / 1275,
    )
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever has the higher contrast ratio (WCAG 2) on the background."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (channel / 255 for channel in background)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def _rows(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _inside(box: Sequence[float], width: int, height: int) -> Box:
    """Whole pixels, at least one, inside the picture."""
    x1, y1, x2, y2 = box
    left = min(max(round(x1), 0), width - 1)
    top = min(max(round(y1), 0), height - 1)
    return left, top, min(max(round(x2), left + 1), width), min(max(round(y2), top + 1), height)


def _fit(text: str, size: int, width: int) -> tuple[str, _Font, int]:
    """Shrink the letters, then cut the text, until a label fits in the picture; text, font and padding."""
    while True:
        font = ImageFont.load_default(size)
        padding = max(1, size // 5)
        room = width - 2 * padding
        length = font.getbbox(text)[2]
        if length <= room or size <= _SMALLEST_FONT:
            break
        size = max(_SMALLEST_FONT, min(size - 1, int(size * room / length)))
    if length > room:
        while len(text) > 1 and font.getbbox(text + "…")[2] > room:
            text = text[:-1]
        text += "…"
    return text, font, padding


def _place(frame: Box, size: tuple[int, int], taken: Sequence[Box], width: int, height: int) -> Box:
    """The first free place around or in the frame, else the one that hides least of other labels."""
    best, least = None, float("inf")
    for left, top in _candidates(frame, size):
        left = max(0, min(left, width - size[0]))
        top = max(0, min(top, height - size[1]))
        place = (left, top, left + size[0], top + size[1])
        hidden = sum(_overlap(place, other) for other in taken)
        if hidden < least:
            best, least = place, hidden
        if hidden == 0:
            break
    assert best is not None
    return best


def _candidates(frame: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Left top corners, usual ones first: above, inside the top, below, inside the bottom; then shifted."""
    left, top, right, bottom = frame
    rows = (top - size[1], top, bottom, bottom - size[1])
    columns = (left, right - size[0])
    yield from ((column, row) for row, column in product(rows, columns))
    for step in range(1, 9):
        for row in (top + step * size[1], top - (step + 1) * size[1]):
            yield from ((column, row) for column in (left, right - size[0], right, left - size[0]))


def _overlap(one: Box, other: Box) -> int:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0
