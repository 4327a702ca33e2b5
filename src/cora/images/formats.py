"""Which image files are opened, and by which decoder."""

import importlib
import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from cora.errors import ImageError
from cora.files import HEAD_BYTES, content_of, head_of

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pcx"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""Endings, in lower case, by which images are found in a folder."""

# Raster formats only: Pillow hands some of the others (EPS) to external programs.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"),
)

#: Brands in the first box of a file of the HEIF family, by the codec inside.
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIC_BRANDS = frozenset((b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx", b"mif1", b"msf1"))


def open_file(file: Path | IO[bytes], what: str) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        file: path or seekable file object.
        what: what messages call it.

    Raises:
        ImageError: it is no image of a known format, or an HEIC or AVIF image whose decoder is missing.
        OSError: it cannot be read.
    """
    try:
        return Image.open(file, formats=_known_formats())
    except UnidentifiedImageError:
        brands = _brands(_head(file))
        if brands & _AVIF_BRANDS:
            if "AVIF" not in _known_formats():
                raise ImageError(
                    f"expected an image that can be read here, got AVIF, which this Pillow cannot decode: {what}; "
                    "install a newer one with: pip install -U pillow"
                ) from None
        elif brands & _HEIC_BRANDS:
            if not _register_heif():
                raise ImageError(
                    f"expected an image that can be read here, got HEIC, which needs an optional package: {what}; "
                    "install it with: pip install 'cora-ovd[heif]'"
                ) from None
            with suppress(UnidentifiedImageError):
                return Image.open(file, formats=("HEIF",))
        raise _unidentified(_head(file), what) from None


def ends_whole(path: Path) -> bool:
    """Whether a file has the end of its format: JPEG, PNG, GIF, WebP or BMP; False for all others.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(12)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 12))
        tail = stream.read()
    if head.startswith(b"\xff\xd8"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if head.startswith(b"\x89PNG"):
        return tail[4:8] == b"IEND"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return size >= int.from_bytes(head[4:8], "little") + 8
    if head.startswith(b"BM"):
        return size >= int.from_bytes(head[2:6], "little") > 0
    return head.startswith(b"GIF8") and tail.endswith(b";")


#: What `content_of` calls files of formats that are decoded: a file of theirs that is not has something unusual.
_DECODED = frozenset(
    (*(f"a {name} image" for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP")), "an AVIF image", "an HEIC image")
)


def _unidentified(head: bytes, what: str) -> ImageError:
    """The error about a file that no decoder takes."""
    found, advice = content_of(head) or ("something that is no image" if head else "an empty file", "check the file")
    if found in _DECODED:
        found, advice = f"{found} that is damaged or truncated, or of bits and channels that are not decoded", ""
    usual = "save it as 8-bit PNG" if "image" in found or "drawing" in found else "name an image"
    return ImageError(f"expected an image (JPEG, PNG, WebP, TIFF, ...), got {found}: {what}; {advice or usual}")


def _head(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        return head_of(file)
    file.seek(0)
    return file.read(HEAD_BYTES)


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of a file of the ISO base media format (ISO/IEC 14496-12, 4.3); else none."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[start : start + 4] for start in (8, *range(16, end, 4))}


def _register_heif() -> bool:
    """Let Pillow decode HEIC, where the extra `heif` is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        _LOG.debug("pillow_heif cannot be imported", exc_info=True)
        return False
    return True


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
