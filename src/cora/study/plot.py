"""Plots of a study: fit of the boxes, and activation maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cora.draw import Colour
from cora.draw.fonts import font_for, shorten
from cora.study.evaluate import THRESHOLDS, FitSummary

_INK, _FAINT = (30, 30, 30), (205, 205, 205)
#: Blue and orange also differ in lightness.
_COLOURS: tuple[Colour, ...] = ((33, 102, 172), (230, 126, 34), (150, 150, 150), (60, 140, 90))
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 470, 64, 24, 96, 58
_SCALE_LENGTH, _SCALE_HEIGHT, _CAPTION_LETTERS = 160, 34, 18
#: Dark to light through colours whose lightness only rises.
_HEAT: tuple[Colour, ...] = ((20, 11, 53), (133, 33, 107), (229, 92, 48), (252, 255, 164))


def draw_histogram(summaries: Mapping[str, FitSummary], *, title: str) -> Image.Image:
    """IoU of the best boxes as steps, one line for each name, in percent of its boxes.

    Raises:
        ValueError: nothing to draw.
    """
    shown = {name: one for name, one in summaries.items() if one.boxes}
    if not shown:
        raise ValueError("histogram: expected at least one summary with boxes, got none")
    shares = {name: [100 * n / one.boxes for n in one.histogram] for name, one in shown.items()}
    highest = max(max(values) for values in shares.values())
    top = 5 * max(1, math.ceil(highest / 5))
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    canvas.text((_LEFT, 14), title, fill=_INK, font=ImageFont.load_default(20))
    inner_w, inner_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(iou: float, percent: float) -> tuple[float, float]:
        return _LEFT + iou * inner_w, _TOP + inner_h * (1 - percent / top)

    for step in range(6):
        percent = top * step / 5
        canvas.line((*place(0, percent), *place(1, percent)), fill=_FAINT)
        canvas.text((_LEFT - 8, place(0, percent)[1]), f"{percent:g} %", fill=_INK, font=font, anchor="rm")
    for step in range(11):
        canvas.text(
            (place(step / 10, 0)[0], _HEIGHT - _BOTTOM + 8), f"{step / 10:g}", fill=_INK, font=font, anchor="ma"
        )
    for threshold in THRESHOLDS:
        canvas.line((*place(threshold, 0), *place(threshold, top)), fill=_INK)
    middle = (_LEFT + inner_w / 2, _HEIGHT - 22)
    canvas.text(middle, "IoU of the best box of the true class", fill=_INK, font=font, anchor="ma")
    x = float(_LEFT)
    for number, (name, values) in enumerate(shares.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        corners: list[tuple[float, float]] = []
        for index, percent in enumerate(values):
            corners += [place(index / len(values), percent), place((index + 1) / len(values), percent)]
        canvas.line(corners, fill=colour, width=3)
        canvas.rectangle((x, 54, x + 14, 68), fill=colour)
        label = f"{name} ({shown[name].boxes} boxes)"
        canvas.text((x + 20, 53), label, fill=_INK, font=font)
        x += 44 + font.getlength(label)
    return picture


def draw_maps(image: Image.Image, names: Sequence[str], maps: Tensor) -> Image.Image:
    """An image with the activation map of each class over it: one panel per class, three in a row.

    A colour scale stands below; each panel shows the highest value of its map.

    Args:
        image: RGB.
        names: C classes.
        maps: [C, h, w] in 0..1, stretched over the image.

    Raises:
        ValueError: not one map a name, or no name.
    """
    if not names or len(maps) != len(names):
        raise ValueError(f"maps: expected one for each of {len(names)} names (one or more), got {len(maps)}")
    width = 400
    height = max(1, round(image.height * width / image.width))
    small, font, caption = image.resize((width, height)), ImageFont.load_default(_CAPTION_LETTERS), 30
    grey = np.asarray(small.convert("L").convert("RGB"), dtype=np.float32)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    below = rows * (height + caption + 10) + 10
    whole = Image.new("RGB", (columns * (width + 10) + 10, below + _SCALE_HEIGHT), "white")
    canvas = ImageDraw.Draw(whole)
    for index, (name, one) in enumerate(zip(names, maps.float().cpu().clamp(0, 1), strict=True)):
        values = Image.fromarray((one.numpy() * 255).round().astype(np.uint8))
        heat = _heat(np.asarray(values.resize((width, height), Image.Resampling.BILINEAR)) / 255)
        mixed = Image.fromarray((0.4 * grey + 0.6 * heat).astype(np.uint8))
        x, y = 10 + index % columns * (width + 10), 10 + index // columns * (height + caption + 10)
        highest = f"max {float(one.max()):.2f}"
        shown, letters = font_for(name, _CAPTION_LETTERS)
        shown = shorten(shown, letters, width - font.getlength(highest) - 10)
        canvas.text((x, y), shown, fill=_INK, font=letters)
        canvas.text((x + width, y), highest, fill=_INK, font=font, anchor="ra")
        whole.paste(mixed, (x, y + caption))
    _draw_scale(whole, 10, below)
    return whole


def _draw_scale(whole: Image.Image, left: int, top: int) -> None:
    """Draw the colour scale of 0..1; in the panels the image dims these colours."""
    canvas, font = ImageDraw.Draw(whole), ImageFont.load_default(14)
    ramp = np.broadcast_to(_heat(np.linspace(0, 1, _SCALE_LENGTH)), (14, _SCALE_LENGTH, 3))
    start = left + math.ceil(font.getlength("0")) + 6
    whole.paste(Image.fromarray(ramp.round().astype(np.uint8)), (start, top))
    canvas.rectangle((start - 1, top - 1, start + _SCALE_LENGTH, top + 14), outline=_FAINT)
    canvas.text((left, top + 7), "0", fill=_INK, font=font, anchor="lm")
    canvas.text((start + _SCALE_LENGTH + 6, top + 7), "1", fill=_INK, font=font, anchor="lm")


def _heat(values: np.ndarray) -> np.ndarray:
    """[h, w] in 0..1 to colours [h, w, 3] in 0..255."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, stops, [colour[i] for colour in _HEAT]) for i in range(3)], axis=-1)
