"""Animated GIFs, for short clips in documents."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cora.video.reader import Frame

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

_COLOURS = 96
#: Shortest duration of a frame in hundredths of a second; browsers slow down GIFs that are faster.
_SHORTEST = 2
#: Levels of 255; smaller changes from one frame to the next are noise of the camera, which would fill most of the file.
_NOISE = 5


class GifFile:
    """Collects frames and writes them at the end; one palette for all lets pixels that stand still cost nothing.

    Args:
        path: file to write.
        time_base: seconds in one tick of the frames' times.
    """

    def __init__(self, path: Path, time_base: Fraction) -> None:
        self._path, self._time_base = path, time_base
        self._palette: Image.Image | None = None
        self._shown: NDArray[np.int16] | None = None
        self._pictures: list[Image.Image] = []
        self._starts: list[int] = []
        self._end = 0

    def write(self, frame: Frame, picture: Image.Image) -> None:
        """Append an image; all are kept in memory, one byte a pixel."""
        if self._palette is None:
            self._palette = _palette(picture)
        picture = self._without_noise(picture)
        # No dithering: its pattern would change from frame to frame where the image stands still.
        self._pictures.append(picture.quantize(palette=self._palette, dither=Image.Dither.NONE))
        self._starts.append(round(frame.pts * self._time_base * 100))
        self._end = round((frame.pts + frame.duration) * self._time_base * 100)

    def _without_noise(self, picture: Image.Image) -> Image.Image:
        """The image, with the pixels of the previous one wherever they are about the same."""
        pixels = np.array(picture, dtype=np.int16)
        if self._shown is not None:
            same = np.abs(pixels - self._shown).max(axis=2) <= _NOISE
            pixels[same] = self._shown[same]
        self._shown = pixels
        return Image.fromarray(pixels.astype(np.uint8))

    def copy_sound(self, packets: Iterable[Packet[AudioStream]]) -> None:
        """A GIF has no sound."""

    def finish(self) -> None:
        """Write the file."""
        ends = [*self._starts[1:], self._end]
        lengths = [10 * max(_SHORTEST, end - start) for start, end in zip(self._starts, ends, strict=True)]
        first, *others = self._pictures
        first.save(
            self._path, format="GIF", save_all=True, append_images=others, duration=lengths, loop=0, optimize=True
        )


def _palette(picture: Image.Image) -> Image.Image:
    """An image with the palette: colours of the first frame, and 64 evenly spaced ones for later frames."""
    levels = (0, 85, 170, 255)
    own = (picture.quantize(_COLOURS).getpalette() or [])[: 3 * _COLOURS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *(level for colour in product(levels, repeat=3) for level in colour)])
    return palette
