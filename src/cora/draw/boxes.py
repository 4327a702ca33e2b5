"""Boxes with names on an image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from cora.draw.colours import Colour, class_colours, text_colour
from cora.draw.fonts import SMALLEST, Font, font_for, shorten
from cora.draw.places import Box, Places

_LONGEST_NAME = 32
_USUAL_SIZE = 11
#: Labels together may hide this share of an image before their letters become smaller ...
_MUCH_HIDDEN = 0.15
#: ... and this share before more of them are left out.
_MOST_HIDDEN = 0.3


@dataclass(frozen=True)
class _Label:
    """A text with its font; offset: (x, y) of the text from the label's corner; size: (width, height), in pixels."""

    text: str
    font: Font
    offset: tuple[int, int]
    size: tuple[int, int]


def draw_boxes(
    image: Image.Image,
    boxes_xyxy_px: Any,
    names: Sequence[str],
    scores: Any | None = None,
    *,
    captions: Sequence[str] | None = None,
    colours: Sequence[Colour] | None = None,
    fill: float = 0.0,
    letters_px: int | None = None,
) -> Image.Image:
    """A copy of an image with boxes and labels drawn on it.

    Labels stay inside the image and avoid each other and other boxes;
    where boxes come best first, the best get the first choice of place and lie on top. Letters shrink where there are
    many labels. A label is left out where it would hide another, and where labels hide much of the image already and
    one of them has its name.

    Args:
        image: any Pillow image.
        boxes_xyxy_px: K boxes [K, 4] (x1, y1, x2, y2) in pixels of `image`: tensor, array or nested list.
        names: K names.
        scores: K numbers in 0..1, printed with two digits behind the names.
        captions: K texts to print in place of the names, such as a name with the number of a track.
        colours: K colours (red, green, blue); those that `class_colours` gives the names if None. Where several
            images belong together, take the colours of all names from one call of it.
        fill: opacity 0..1 of the class's colour inside the boxes.
        letters_px: height of the letters where there are few labels; a fortieth of the image if None.

    Raises:
        ValueError: the numbers of boxes, names, scores, captions and colours differ, or the opacity is not in 0..1.
    """
    boxes = _rows(boxes_xyxy_px)
    numbers = None if scores is None else _rows(scores)
    _check(len(boxes), {"names": names, "scores": numbers, "captions": captions, "colours": colours}, fill)
    picture = image.convert("RGB") if image.mode != "RGB" else image.copy()
    frames = [_inside(box, *picture.size) for box in boxes]
    if colours is None:
        of_name = class_colours(names)
        colours = [of_name[name] for name in names]
    _draw_frames(picture, frames, colours, fill)
    digits = [""] * len(boxes) if numbers is None else [f"{number:.2f}" for number in numbers]
    texts = list(zip(names if captions is None else captions, digits, strict=True))
    usual = letters_px or max(_USUAL_SIZE, round(math.sqrt(picture.width * picture.height) / 40))
    _draw_labels(picture, frames, names, texts, colours, usual)
    return picture


def _draw_frames(picture: Image.Image, frames: Sequence[Box], colours: Sequence[Colour], fill: float) -> None:
    if fill > 0:
        # Painted once, with the best box on top: opacities that add up would hide what lies under many boxes.
        paint, where = picture.copy(), Image.new("L", picture.size)
        for frame, colour in reversed(list(zip(frames, colours, strict=True))):
            paint.paste(colour, frame)
            where.paste(round(255 * fill), frame)
        picture.paste(paint, mask=where)
    canvas = ImageDraw.Draw(picture)
    thickest = max(1, round(math.sqrt(picture.width * picture.height) / 220))
    # The first boxes are the best and lie on top, so they are drawn last.
    for frame, colour in reversed(list(zip(frames, colours, strict=True))):
        left, top, right, bottom = frame
        # On a large image the usual line would hide a small object.
        line = max(1, min(thickest, min(right - left, bottom - top) // 10))
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)


def _draw_labels(
    picture: Image.Image,
    frames: list[Box],
    names: Sequence[str],
    texts: Sequence[tuple[str, str]],
    colours: Sequence[Colour],
    usual: int,
) -> None:
    canvas = ImageDraw.Draw(picture)
    letters = _letters(texts, *picture.size, usual)
    places = Places(frames=frames, width=picture.width, height=picture.height)
    room = _MOST_HIDDEN * picture.width * picture.height
    readable: set[str] = set()
    for frame, name, (text, number), colour in zip(frames, names, texts, colours, strict=True):
        if name in readable and room <= 0:
            continue
        label = _label(text, number, letters, picture.width)
        place, hidden = places.find(frame, label.size)
        if hidden:
            continue
        readable.add(name)
        room -= label.size[0] * label.size[1]
        places.take(place)
        _draw_label(canvas, label, place, colour)


def _draw_label(canvas: ImageDraw.ImageDraw, label: _Label, place: Box, colour: Colour) -> None:
    left, top, right, bottom = place
    canvas.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    origin = (left + label.offset[0], top + label.offset[1])
    canvas.text(origin, label.text, fill=text_colour(colour), font=label.font)


def _letters(texts: Sequence[tuple[str, str]], width: int, height: int, usual: int) -> int:
    """Size of the letters in pixels: the usual one, less where many labels would hide the image."""
    area = sum((len(f"{name} {number}") * 0.55 + 0.4) * 1.4 * usual**2 for name, number in texts)
    crowded = math.sqrt(_MUCH_HIDDEN * width * height / area) if area else 1.0
    return max(_USUAL_SIZE, usual // 3, round(usual * min(1.0, crowded)))


def _label(name: str, number: str, letters: int, width: int) -> _Label:
    """Where a label is wider than the image its letters shrink, then the number goes, then letters of the name."""
    name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + "…"
    for text in (f"{name} {number}".strip(), name):
        written, font, padding = _fitting(text, letters, width)
        room = width - 2 * padding
        if font.getlength(written) <= room:
            break
    written = shorten(written, font, room)
    left, _, right, _ = font.getbbox(written)
    # Letters that reach up and down make all labels of an image equally high.
    _, high, _, low = font.getbbox("Agjy" + written)
    size = (math.ceil(right - left) + 2 * padding, math.ceil(low - high) + 2 * padding)
    return _Label(written, font, (padding - math.floor(left), padding - math.floor(high)), size)


def _fitting(text: str, letters: int, width: int) -> tuple[str, Font, int]:
    """The text, a font in which it fits in the image or the smallest that can be read, and the padding."""
    while True:
        written, font = font_for(text, letters)
        padding = max(1, letters // 5)
        length = font.getlength(written)
        room = width - 2 * padding
        if length <= max(room, 0) or letters <= SMALLEST:
            return written, font, padding
        letters = max(SMALLEST, min(letters - 1, int(letters * room / length)))


def _check(count: int, lists: Mapping[str, Sequence[Any] | None], fill: float) -> None:
    got = [f"{len(entries)} {what}" for what, entries in lists.items() if entries is not None]
    if any(entries is not None and len(entries) != count for entries in lists.values()):
        raise ValueError(f"expected as many boxes as names and scores, got {count} boxes, {', '.join(got)}")
    if not 0 <= fill <= 1:
        raise ValueError(f"fill: expected an opacity in 0..1, got {fill}")


def _rows(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _inside(box: Sequence[float], width: int, height: int) -> Box:
    """Whole pixels, at least one, inside the image."""
    x1, y1, x2, y2 = box
    left = min(max(round(x1), 0), width - 1)
    top = min(max(round(y1), 0), height - 1)
    return left, top, min(max(round(x2), left + 1), width), min(max(round(y2), top + 1), height)
