"""Many small images on one: what a search found, or a batch."""

import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from cora.draw.fonts import font_for, shorten

_BACKGROUND, _CELL, _INK = (255, 255, 255), (238, 238, 238), (30, 30, 30)
_GAP, _LINES = 8, 3


def contact_sheet(
    pictures: Iterable[Image.Image], captions: Sequence[str], *, columns: int | None = None, cell_px: int = 200
) -> Image.Image:
    """Images in rows, each with a caption below; shrunk or enlarged to their cells, never cropped.

    Args:
        pictures: Pillow images of any size; taken one after the other, so a generator keeps few in memory.
        captions: a text for each; up to three lines divided by line breaks, each cut in its middle where too long.
        columns: images in a row; about a square sheet if None.
        cell_px: largest height and width of an image on the sheet.

    Raises:
        ValueError: no captions, as many images as captions are not there, or a size below what can be read.
    """
    if not captions:
        raise ValueError("contact_sheet: expected at least one image, got none")
    if cell_px < 32 or (columns is not None and columns < 1):
        raise ValueError(
            f"contact_sheet: expected cells of 32 pixels or more, 1 column or more, got {cell_px}, {columns}"
        )
    wide = min(len(captions), columns or math.ceil(math.sqrt(len(captions) * 1.3)))
    letters = max(10, round(cell_px / 15))
    line = round(letters * 1.35)
    written = max(min(_LINES, len(caption.splitlines())) for caption in captions)
    pitch = (cell_px + _GAP, cell_px + written * line + _GAP)
    rows = math.ceil(len(captions) / wide)
    sheet = Image.new("RGB", (wide * pitch[0] + _GAP, rows * pitch[1] + _GAP), _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP + place % wide * pitch[0], _GAP + place // wide * pitch[1]
        canvas.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), fill=_CELL)
        fitted = _fitted(picture, cell_px)
        sheet.paste(fitted, (left + (cell_px - fitted.width) // 2, top + (cell_px - fitted.height) // 2))
        for number, text in enumerate(caption.splitlines()[:_LINES]):
            shown, font = font_for(text, letters)
            row = top + cell_px + number * line + (line - letters) // 2
            canvas.text((left, row), shorten(shown, font, cell_px, tail=0.5), fill=_INK, font=font)
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    rgb = picture.convert("RGB")
    # Regions of a few pixels are shown as they are, in squares, instead of as a blur.
    return rgb.resize(size, Image.Resampling.NEAREST if factor > 8 else Image.Resampling.LANCZOS)
