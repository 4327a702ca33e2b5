"""Decodes the image files of clients, and shrinks them to the size that the network takes."""

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

#: Turns the alphabet of base64 for URLs into that of base64, and drops line breaks.
_TO_BASE64 = str.maketrans("-_", "+/", "\r\n")

# Fewer than `read_image` takes, since every decoder may have holes that a client could use.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Picture:
    """A decoded image that waits for the network.

    Attributes:
        image: RGB, already shrunk to the size that the network takes, so that waiting images need little memory.
        size_hw: (height, width) in pixels of the upright image before it was shrunk.
    """

    image: Image.Image
    size_hw: tuple[int, int]


def open_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file as upright RGB.

    Args:
        data: content of the file.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: it is not an image, or a damaged one.
        RefusedError: 413, it has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` decides instead
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
        # Pillow refuses at twice its own limit, while it reads the header; its error has no size.
        raise _too_large("more than can be opened", max_pixels) from None
    except Exception as error:
        # Decoders raise errors of any type on damaged files; the fault is the file's, not the service's.
        _LOG.info("an image cannot be decoded", exc_info=True)
        raise ImageError(f"expected a whole image, got a damaged one ({type(error).__name__}); send it again") from None


def shrink(image: Image.Image, resize: Callable[[Image.Image], Image.Image]) -> Picture:
    """Shrink an image with a preprocessor's `resize`, and note the size that its boxes are to be scaled back to."""
    return Picture(resize(image), (image.height, image.width))


def from_base64(text: str) -> bytes:
    """Decode base64, with or without "data:image/...;base64," before it.

    The text may have line breaks, as `base64 FILE` and MIME write them, and the alphabet for URLs ("-" and "_").

    Raises:
        ImageError: it is other text. A path or an address is never opened.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.strip().translate(_TO_BASE64), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("expected an image file in base64, got other text; paths and addresses are not read") from None


def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(size: str, max_pixels: int) -> RefusedError:
    return RefusedError(413, f"expected at most {max_pixels / 1e6:g} megapixels, got {size}; shrink the image")
