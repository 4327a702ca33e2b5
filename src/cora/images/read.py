"""Every kind of source becomes the same upright RGB of 8 bits."""

import errno
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cora.errors import ImageError
from cora.images.arrays import from_array, from_tensor
from cora.images.depth import check_cut_colours, grey_to_8_bits, has_16_bit_colours, is_deep_grey
from cora.images.formats import ends_whole, open_file
from cora.images.web import download, is_url, scheme_of, shown

ImageSource = str | PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8] | torch.Tensor
"""A path, a URL, an image file's bytes, an open file, a Pillow image, or an array or tensor of uint8."""

MAX_PIXELS = 100_000_000
"""Largest image that is decoded unless the caller says otherwise: 100 megapixels, 300 MB as RGB."""

_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 0x0100, 0x0101, 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNS_SIDES = (5, 6, 7, 8)
_LONGEST_SHOWN = 200

# What Pillow raises on damaged metadata.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, allow_url: bool = False) -> Image.Image:
    """Read an image of any usual kind as upright 8-bit RGB.

    EXIF orientation is applied. Transparent pixels are laid on white. Grey of more than 8 bits is scaled where its
    range is plain, else refused (see `cora.images.depth`). Of an animation the first frame counts.

    Args:
        source: a path; a URL of http or https; the bytes of an image file, or a file opened for bytes; a Pillow image;
            a uint8 array [H, W] or [H, W, 1] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA); or a uint8 tensor of these
            shapes or with the channels first, [3, H, W], which is what is meant where both could be.
        max_pixels: larger files are refused before they are decoded. What is decoded already (arrays, tensors,
            images in memory) passes.
        allow_url: fetch a URL. Only for callers whose users name the sources: a service that fetched what its clients
            name would let them reach its own network.

    Raises:
        ImageError: there is no such file, it is no image, it is damaged or too large, it cannot be fetched, or the
            array or tensor has another shape or type.
    """
    with _quiet():
        if isinstance(source, Image.Image):
            return _normalise(source, "the given image", max_pixels)
        if isinstance(source, np.ndarray):
            return _normalise(from_array(source), "the given array", max_pixels)
        if isinstance(source, torch.Tensor):
            return _normalise(from_tensor(source), "the given tensor", max_pixels)
        file, what = _file_of(source, allow_url=allow_url)
        with _open(file, what, max_pixels) as image:
            return _normalise(image, what, max_pixels)


def read_size(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels that `read_image` would return, from what stands before the pixels.

    Raises:
        ImageError: there is no such file, it is no image, or it is too large. Damaged pixels show only when
            the image is read.
    """
    with _quiet(), _open(Path(path), str(path), max_pixels) as image:
        width, height = _stored_size(image)
        if width * height > max_pixels:
            raise _too_large(str(path), f"{width} x {height}", max_pixels)
        return (width, height) if _orientation(image, decode=False) in _TURNS_SIDES else (height, width)


def check_whole(path: Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a file that was cut short; one that ends as its format does is not decoded.

    Raises:
        ImageError: it cannot be read, or pixels are missing.
    """
    try:
        whole = ends_whole(path)
    except OSError as error:
        raise ImageError(f"expected a readable file, got {error.strerror or error}: {path}") from None
    if not whole:
        read_image(path, max_pixels=max_pixels)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Pillow warns below our limit and only fails at twice its own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Corrupt EXIF", UserWarning)
        yield


def _file_of(source: object, *, allow_url: bool) -> tuple[Path | IO[bytes], str]:
    """What to open, and what messages call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "the given bytes"
    if isinstance(source, str):
        return _file_of_text(source, allow_url=allow_url)
    if isinstance(source, PathLike):
        return Path(source), str(source)
    if isinstance(source, io.TextIOBase):
        raise ImageError("expected a file opened for bytes, got one opened for text; open it with mode 'rb'")
    if getattr(source, "closed", False):
        raise ImageError("expected an open file, got a closed one; open it again")
    if callable(getattr(source, "read", None)):
        return _seekable(cast(IO[bytes], source)), "the given file"
    raise ImageError(
        "expected a path, URL, bytes, an open file, a Pillow image, or a uint8 array or tensor, "
        f"got {type(source).__name__}; convert it first"
    )


def _file_of_text(text: str, *, allow_url: bool) -> tuple[Path | IO[bytes], str]:
    if is_url(text):
        if not allow_url:
            raise ImageError(f"expected a file, got a URL: {shown(text)}; get it first, addresses are not read here")
        return io.BytesIO(download(text)), shown(text)
    if scheme_of(text) or text.startswith("data:"):
        scheme = scheme_of(text) or "data"
        raise ImageError(
            f"expected a path, or an address with http:// or https://, got one with {scheme}:; "
            "get the file and give its path"
        )
    if not text.strip():
        raise ImageError("expected a path or an address, got an empty text; check where it comes from")
    return Path(text), text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _seekable(file: IO[bytes]) -> IO[bytes]:
    """The file, or where it cannot go back to its start, as a pipe, its content."""
    try:
        file.seek(0)
    except Exception:  # io.UnsupportedOperation in most
        try:
            content = file.read()
        except Exception as error:
            raise _damaged("the given file", error) from None
        if isinstance(content, bytes):
            return io.BytesIO(content)
        raise ImageError(f"expected a file of bytes, got {type(content).__name__}; open it with mode 'rb'") from None
    return file


def _open(file: Path | IO[bytes], what: str, max_pixels: int) -> Image.Image:
    try:
        return open_file(file, what)
    except FileNotFoundError:
        raise ImageError(f"expected an image file, got no file at {what}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"expected an image file, got a folder: {what}; name a file in it") from None
    except PermissionError:
        raise ImageError(f"expected a readable file, got no permission for {what}; change its mode") from None
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        # Pillow gives no size here: it refuses at twice its own limit, while reading the header.
        raise _too_large(what, "more than Pillow opens", max_pixels) from None
    except Exception as error:  # of any kind: a given file may be one of an archive, or of a request
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise ImageError(f"expected a path, got text that is too long for one: {what}; check the path") from None
        if isinstance(file, Path) and "\0" in str(file):
            raise ImageError(f"expected a path, got text with a null byte: {what!a}; check the path") from None
        raise _damaged(what, error) from None


def _normalise(image: Image.Image, what: str, max_pixels: int) -> Image.Image:
    """Decode, turn upright, convert to RGB; without metadata in the result nothing turns it twice."""
    if isinstance(image, ImageFile.ImageFile) and image.width * image.height > max_pixels:
        raise _too_large(what, f"{image.width} x {image.height}", max_pixels)
    cut = has_16_bit_colours(image)
    file = getattr(image, "fp", image)
    closed = file is None or getattr(file, "closed", False)  # which a decoded image may be
    try:
        _load(image)
    except MemoryError:
        raise
    except Exception as error:
        if closed:
            raise ImageError(
                f"expected an open image, got a closed one: {what}; call its load() before its file is closed"
            ) from None
        raise _damaged(what, error) from None
    if image.width == 0 or image.height == 0:
        raise ImageError(f"expected an image with pixels, got {image.width} x {image.height}: {what}")
    if cut:
        check_cut_colours(image, what)
    upright = _UPRIGHT.get(_orientation(image))
    if upright is None and type(image) is Image.Image and image.mode == "RGB" and "transparency" not in image.info:
        return image
    image = _to_rgb(image, what)
    if upright is not None:
        image = image.transpose(upright)
    image.info = {}
    return image


def _load(image: Image.Image) -> None:
    """Decode the pixels."""
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    # Pillow maps a TIFF file into memory with the sides that the image has upright, although its rows lie as stored:
    # one that is turned would be sheared. A file without a name is not mapped.
    image.filename = ""  # type: ignore[attr-defined]  # only opened files have one
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if is_deep_grey(image):
        return grey_to_8_bits(image, what).convert("RGB")
    try:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"expected grey or RGB colours, got {image.mode}: {what}; save it as RGB") from None


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as the file has them; of a TIFF file, Pillow gives those of the upright image."""
    tags = getattr(image, "tag_v2", None) or {}
    return int(tags.get(_WIDTH_TAG, image.width)), int(tags.get(_HEIGHT_TAG, image.height))


def _orientation(image: Image.Image, *, decode: bool = True) -> int:
    try:
        # A PNG's own method decodes the image in search of metadata behind the pixels, where hardly any has it.
        exif = image.getexif() if decode or image.format != "PNG" else Image.Image.getexif(image)
        return int(exif.get(_ORIENTATION_TAG, 1))
    except _DECODE_ERRORS:
        return 1  # unreadable metadata does not make the image unreadable


def _damaged(what: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"expected a whole image, got a damaged or truncated one: {what} ({reason}); get it again")


def _too_large(what: str, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"expected at most {max_pixels / 1e6:g} megapixels, got {size}: {what}; shrink it or cut it up")
