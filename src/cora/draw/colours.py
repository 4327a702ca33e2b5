"""Colours of classes, clearly different within a list of names, and a colour of text to read on them."""

import zlib
from collections.abc import Collection, Iterable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

#: Twenty colours spread over the saturated part of OKLab, in an order in which neighbours differ most.
PALETTE: tuple[Colour, ...] = (
    *((240, 15, 0), (90, 210, 150), (0, 105, 0), (180, 120, 180), (0, 0, 255), (255, 210, 120), (150, 90, 0)),
    *((135, 0, 210), (75, 180, 255), (255, 30, 165), (180, 150, 0), (0, 90, 150), (120, 255, 255), (210, 45, 255)),
    *((255, 135, 120), (0, 150, 120), (135, 45, 105), (0, 255, 0), (255, 165, 255), (90, 105, 255)),
)

#: Distance in OKLab from which two colours are told apart at a glance, thin lines far from each other, too.
_CLEAR = 0.25


def class_colours(names: Iterable[str]) -> Mapping[str, Colour]:
    """RGB of every class of a list, by name.

    No two of up to twenty names have the same colour, and names beside each other have clearly different ones. As far
    as that allows, a name has the same colour in every list.
    """
    return _class_colours(tuple(dict.fromkeys(names)))


def colours_together(groups: Iterable[Collection[str]]) -> dict[str, Colour]:
    """RGB of every class of several images, by name: one colour for a class in all of them.

    As long as the palette allows, classes of one image have clearly different colours, and no two classes the same.

    Args:
        groups: the names that one image shows, for each image.
    """
    beside: dict[str, set[str]] = {}
    for group in groups:
        for name in group:
            beside.setdefault(name, set()).update(group)
    colours: dict[str, Colour] = {}
    for name in sorted(beside, key=lambda name: (-len(beside[name]), name)):
        taken = [colours[other] for other in beside[name] if other in colours]
        start = _preferred(name)
        order = [*PALETTE[start:], *PALETTE[:start]]
        apart = {colour: min((colour_distance(colour, other) for other in taken), default=1.0) for colour in order}
        clear = [colour for colour in order if apart[colour] >= _CLEAR]
        free = [colour for colour in clear if colour not in colours.values()]
        colours[name] = (free or clear or [max(order, key=apart.__getitem__)])[0]
    return colours


def class_colour(name: str) -> Colour:
    """RGB of a class by itself: what it has in any list where no name before it took that."""
    return PALETTE[_preferred(name)]


def numbered_colour(number: int) -> Colour:
    """RGB of the object of a number, such as a track: clearly different for numbers that follow each other."""
    return PALETTE[number % len(PALETTE)]


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever has the higher contrast ratio (WCAG 2) on the background."""
    red, green, blue = _linear(background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def colour_distance(one: Colour, other: Colour) -> float:
    """Distance in OKLab (Ottosson 2020): about 0.02 is just noticeable, black and white are 1 apart."""
    return float(np.linalg.norm(_oklab(one) - _oklab(other)))


@lru_cache(maxsize=64)
def _class_colours(names: tuple[str, ...]) -> Mapping[str, Colour]:
    colours: dict[str, Colour] = {}
    free: set[int] = set()
    last: int | None = None
    for name in names:
        free = free or set(range(len(PALETTE)))
        start = _preferred(name)
        order = sorted(free, key=lambda place: (place - start) % len(PALETTE))
        last = next((place for place in order if last is None or _is_clear(place, last)), order[0])
        free.remove(last)
        colours[name] = PALETTE[last]
    return MappingProxyType(colours)


def _preferred(name: str) -> int:
    # crc32 of short names differs mostly in its low bits; a multiplicative hash spreads them over all.
    mixed = (zlib.crc32(name.encode("utf-8", "surrogatepass")) * 2654435761) & 0xFFFFFFFF
    return (mixed >> 16) * len(PALETTE) >> 16


@cache
def _is_clear(place: int, other: int) -> bool:
    return colour_distance(PALETTE[place], PALETTE[other]) >= _CLEAR


def _oklab(colour: Colour) -> NDArray[np.float64]:
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]]) @ _linear(colour)  # fmt: skip
    opponent = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                         [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return opponent @ np.cbrt(cones)


def _linear(colour: Colour) -> list[float]:
    return [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in colour)
    ]
