"""Plot of a search: quality over time per image, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from cora.compress.arch import Candidate, pareto_front
from cora.draw import Colour

SIZE, LEFT, TOP, RIGHT, BOTTOM = (900, 560), 80, 100, 30, 64
_INK, _FAINT, _GRID = (30, 30, 30), (150, 150, 150), (225, 225, 225)
_TRIED, _FRONT, _WHOLE, _BUDGET = (158, 202, 225), (8, 81, 156), (217, 95, 2), (120, 120, 120)
_DOT = 4


def draw_search(
    candidates: Sequence[Candidate], *, whole: Candidate, budget_ms: float, title: str, quality: str
) -> Image.Image:
    """Candidates as dots, their Pareto front as steps, the whole model as a square, the budget as a line.

    Candidates over the budget have no quality; they are counted in the subtitle.

    Args:
        candidates: of a search.
        whole: the model that it began from, with its quality.
        budget_ms: allowed time per image.
        title: first line.
        quality: what the vertical axis shows, a share in 0..1, drawn in %.

    Raises:
        ValueError: no candidate has a quality.
    """
    within = [one for one in candidates if one.quality is not None]
    if not within:
        raise ValueError("image of a search: expected a candidate within the budget, got none")
    longest = max(budget_ms, whole.milliseconds, *(one.milliseconds for one in within))
    wide = _step(longest, 8)
    right = wide * math.ceil(1.02 * longest / wide)
    values = [100 * (one.quality or 0.0) for one in (*within, whole)]
    step = _step(max(values) - min(values), 6)
    # A share ends at 100 %; the scale must show one step even where all are equal.
    high = min(step * math.ceil(max(values) / step + 0.2), 100.0)
    low = min(step * math.floor(min(values) / step), high - step)
    picture = Image.new("RGB", SIZE, "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def at(one: Candidate) -> tuple[float, float]:
        return _x(one.milliseconds, right), _y(100 * (one.quality or 0.0), low, high)

    canvas.text((LEFT, 14), title, fill=_INK, font=ImageFont.load_default(20))
    over = len(candidates) - len(within)
    canvas.text((LEFT, 42), f"{len(within)} within the budget, {over} over it and not drawn", fill=_INK, font=font)
    _axes(canvas, font, right, wide, low, high, step, quality)
    edge = _x(budget_ms, right)
    canvas.line((edge, TOP, edge, SIZE[1] - BOTTOM), fill=_BUDGET, width=2)
    canvas.text((edge - 6, TOP + 4), f"budget {budget_ms:g} ms", fill=_BUDGET, font=font, anchor="ra")
    for one in within:
        _dot(canvas, at(one), _TRIED)
    front = [at(one) for one in pareto_front(within, whole)]
    for (x0, y0), (x1, y1) in pairwise(front):
        canvas.line((x0, y0, x1, y0, x1, y1), fill=_FRONT, width=2)
    for place in front:
        _dot(canvas, place, _FRONT)
    x, y = at(whole)
    canvas.rectangle((x - 5, y - 5, x + 5, y + 5), fill=_WHOLE)
    beside, anchor = (x - 10, "rm") if x > SIZE[0] / 2 else (x + 10, "lm")
    canvas.text((beside, y), "whole model", fill=_WHOLE, font=font, anchor=anchor)
    return picture


def _axes(
    canvas: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    right: float,
    wide: float,
    low: float,
    high: float,
    step: float,
    quality: str,
) -> None:
    bottom, end = SIZE[1] - BOTTOM, SIZE[0] - RIGHT
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        y = _y(value, low, high)
        canvas.line((LEFT, y, end, y), fill=_GRID)
        canvas.text((LEFT - 8, y), f"{value:g}", fill=_INK, font=font, anchor="rm")
    for number in range(round(right / wide) + 1):
        x = _x(number * wide, right)
        canvas.line((x, bottom, x, bottom + 5), fill=_FAINT)
        canvas.text((x, bottom + 8), f"{number * wide:g}", fill=_INK, font=font, anchor="ma")
    canvas.line((LEFT, bottom, end, bottom), fill=_FAINT)
    canvas.text(((LEFT + end) / 2, SIZE[1] - 28), "ms an image", fill=_INK, font=font, anchor="ma")
    canvas.text((LEFT, TOP - 8), quality, fill=_INK, font=font, anchor="lb")


def _x(milliseconds: float, right: float) -> float:
    return LEFT + (SIZE[0] - LEFT - RIGHT) * milliseconds / right


def _y(value: float, low: float, high: float) -> float:
    return SIZE[1] - BOTTOM - (SIZE[1] - TOP - BOTTOM) * (value - low) / (high - low)


def _step(extent: float, parts: int) -> float:
    """A round number, 1, 2 or 5 times a power of ten, of which about `parts` make the extent."""
    rough = max(extent, 1e-3) / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _dot(canvas: ImageDraw.ImageDraw, place: tuple[float, float], colour: Colour) -> None:
    x, y = place
    canvas.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=colour)
