"""Images of other depths than 8 bits: right, or refused, never nearly black.

A file of 16 bits says nothing of how many of them it uses: cameras write 10, 12 or 14. The same holds of floats and of
32-bit integers. Values that use more than a quarter of a usual range are taken for that range, unless only single hot
pixels do; others are refused, since scaled by the wrong range they would be nearly black.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cora.errors import ImageError

_BITS_TAG, _PHOTOMETRIC_TAG, _FORMAT_TAG = 258, 262, 339
_QUARTER_OF_8_BITS, _SIXTEENTH_OF_8_BITS = 63, 15
#: Per cent of an image's values; those above may be single hot pixels, which say nothing of the range.
_ALL_BUT_FEW = 99.9


def is_deep_grey(image: Image.Image) -> bool:
    """Whether the image is grey with integers of 16 or 32 bits, or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def has_16_bit_colours(image: Image.Image) -> bool:
    """Whether Pillow is about to cut colours of 16 bits to their upper 8; known until the image is decoded."""
    tiles = getattr(image, "tile", None) or ()
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile.args) for tile in tiles)


def check_cut_colours(image: Image.Image, what: str) -> None:
    """Refuse colours whose upper 8 of 16 bits hold next to nothing.

    Raises:
        ImageError: no channel exceeds a quarter of the range, or nearly all pixels lie in a sixteenth of it.
    """
    values = np.asarray(image.convert("RGB"))
    highest, usual = int(values.max()), _all_but_few(values)
    if highest <= _QUARTER_OF_8_BITS or usual <= _SIXTEENTH_OF_8_BITS:
        hot = f", nearly all at most {usual * 256 + 255:.0f}" if highest > _QUARTER_OF_8_BITS else ""
        raise ImageError(
            f"expected colours that use more than a quarter of 16 bits, got at most {highest * 256 + 255}{hot}: "
            f"{what}; scale them to 0..255 and save with 8 bits"
        )


def grey_to_8_bits(image: Image.Image, what: str) -> Image.Image:
    """Grey of 16 or 32 bits or of floats to mode "L"; Pillow's own conversion would clip at 255.

    Integers count in 0..255 if none is above, else in 0..65535, or in as many bits as a TIFF file declares; floats in
    0..1 if none is above, else in 0..255. The grey that a PNG declares transparent becomes white.

    Raises:
        ImageError: values are outside, not finite, or use no more than a quarter of the range.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    declared = _declared_top(image)
    tops = (1.0, 255.0) if image.mode == "F" else (255.0, 32767.0 if _is_signed(image) else 65535.0)
    top = declared or (tops[0] if high <= tops[0] else tops[1])
    usable = low >= 0 and high <= top and (declared or high == 0 or high > top / 4)  # also refuses NaN
    dark = usable and high and not declared and (usual := _all_but_few(values)) <= top / 16
    if not usable or dark:
        ranges = " or ".join(f"0..{top:g}" for top in tops)
        hot = f", nearly all at most {usual:.9g}" if dark else ""
        raise ImageError(
            f"expected grey values in {ranges} that use more than a quarter of it, got {low:.9g}..{high:.9g}{hot}: "
            f"{what}; scale them to 0..255 and save with 8 bits"
        )
    scaled: NDArray[np.float32] = values.astype(np.float32) * np.float32(255 / top)
    if _tags(image).get(_PHOTOMETRIC_TAG) == 0 and image.mode.startswith("I;16"):
        scaled = 255 - scaled  # white is 0: Pillow inverts that for 8 bits only
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled[values == clear] = 255  # a PNG's transparent grey, on white as all that is transparent
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _all_but_few(values: NDArray[Any]) -> float:
    """The value that only a thousandth of an image's values exceeds."""
    return float(np.percentile(values, _ALL_BUT_FEW, method="higher"))


def _declared_top(image: Image.Image) -> float:
    """Greatest value of the bits that a TIFF file declares where they are fewer than those of its container; else 0."""
    bits = _tags(image).get(_BITS_TAG, (16,))
    count = int(bits[0] if isinstance(bits, tuple) else bits)
    return float(2**count - 1) if image.mode.startswith("I;16") and 8 < count < 16 else 0.0


def _is_signed(image: Image.Image) -> bool:
    """Whether a TIFF file declares integers of 16 bits that have a sign, and so half of the range."""
    tags = _tags(image)
    return tags.get(_FORMAT_TAG) in (2, (2,)) and tags.get(_BITS_TAG) in (16, (16,))


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return getattr(image, "tag_v2", None) or {}
