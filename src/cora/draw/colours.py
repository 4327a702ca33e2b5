"""The colour of a class, from nothing but its name, and a colour of text to read on it."""

import colorsys
import zlib

Colour = tuple[int, int, int]

#: Hues in degrees that the eye takes for about equally far apart: green takes up much of the circle, orange little.
_HUES = (0, 16, 30, 44, 58, 90, 140, 172, 190, 208, 228, 252, 276, 298, 320, 342, 360)


def class_colour(name: str) -> Colour:
    """RGB of a class, the same in every picture, list and run."""
    digest = zlib.crc32(name.encode())
    # crc32 of short names differs mostly in its low bits; a multiplicative hash spreads them over all.
    mixed = (digest * 2654435761) & 0xFFFFFFFF
    place, part = divmod((mixed >> 16) / 65536 * (len(_HUES) - 1), 1)
    hue = _HUES[int(place)] * (1 - part) + _HUES[int(place) + 1] * part
    saturation, value = 0.6 + 0.4 * (mixed & 255) / 255, 0.75 + 0.25 * (mixed >> 8 & 255) / 255
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever has the higher contrast ratio (WCAG 2) on the background."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (channel / 255 for channel in background)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)
