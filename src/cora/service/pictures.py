"""Bytes from a client to images of the size that the network takes."""

from __future__ import annotations

import base64
import binascii
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from cora.errors import ImageError
from cora.images import read_image
from cora.service.refusal import RefusedError

_LOG = logging.getLogger(__name__)

#: Letters of base64 for URLs to those of base64; line breaks go.
_ONE_ALPHABET = str.maketrans("-_", "+/", "\r\n")

# Fewer than a user's own files may have: every decoder is something that strangers can attack.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Picture:
    """A decoded image, waiting for the network.

    Attributes:
        image: RGB, already of the size that the network takes: waiting images cost little memory.
        size_hw: (height, width) in pixels of the image as it was sent, upright.
    """

    image: Image.Image
    size_hw: tuple[int, int]


def open_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file as upright RGB.

    Args:
        data: the file.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: no image, or a damaged one.
        RefusedError: 413, more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
                if image.width * image.height > max_pixels:
                    raise _too_large(f"{image.width} x {image.height}", max_pixels)
                return read_image(image, max_pixels=max_pixels)
    except (ImageError, RefusedError):
        raise
    except UnidentifiedImageError:
        found = "something that is none" if data else "nothing"
        raise ImageError(f"expected an image (JPEG, PNG, WebP, GIF, AVIF, BMP or TIFF), got {found}") from None
    except Image.DecompressionBombError:
        # Pillow gives no size here: it refuses at twice its own limit, while reading the header.
        raise _too_large("more than can be opened", max_pixels) from None
    except Exception as error:
        # Whatever a decoder stumbles over in a stranger's bytes is wrong with the bytes, not with this program.
        _LOG.info("an image cannot be decoded", exc_info=True)
        raise ImageError(f"expected a whole image, got a damaged one ({type(error).__name__}); send it again") from None


def shrink(image: Image.Image, resize: Callable[[Image.Image], Image.Image]) -> Picture:
    """The image as `resize` (a preprocessor's) makes it, with the size that its boxes are to have."""
    return Picture(resize(image), (image.height, image.width))


def from_base64(text: str) -> bytes:
    """The bytes of base64 text, with or without "data:image/...;base64," before it.

    Lines may be broken, as `base64 FILE` and MIME do, and the letters may be those for URLs ("-" and "_").

    Raises:
        ImageError: it is something else, a path or an address for instance. Such are never opened.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.strip().translate(_ONE_ALPHABET), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("expected an image file in base64, got other text; paths and addresses are not read") from None


def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(size: str, max_pixels: int) -> RefusedError:
    return RefusedError(413, f"expected at most {max_pixels / 1e6:g} megapixels, got {size}; shrink the image")
