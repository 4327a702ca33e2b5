"""Pictures in, batches out: one pre-processor for predicting, training, evaluating and exporting."""

import struct
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from cora.errors import ImageError
from cora.structures import ImageBatch

ImageSource = str | Path | Image.Image | NDArray[np.uint8]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded unless the caller says otherwise: 100 megapixels, 300 MB as RGB."""

IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pcx"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""Endings, in lower case, by which pictures are found in a folder."""

# Raster formats only: Pillow hands some of the others (EPS) to external programs.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"),
)

_MIN_SIDE = 32

_ORIENTATION_TAG = 0x0112
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

# What Pillow's decoders raise on damaged data, besides OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture of any usual kind as upright 8-bit RGB.

    EXIF orientation is applied. Transparent pixels are laid on white. 16-bit grey is scaled from 0..65535 and
    float grey from 0..1 to 0..255. Of an animation the first frame counts.

    Args:
        source: a path, a Pillow image, or a uint8 array [H, W] or [H, W, 1] (grey), [H, W, 3] (RGB) or
            [H, W, 4] (RGBA).
        max_pixels: larger files are refused before they are decoded. What is decoded already (arrays, images
            in memory) passes.

    Raises:
        ImageError: there is no such file, it is no image, it is damaged or too large, or the array has
            another shape or type.
    """
    with warnings.catch_warnings():
        # Pillow warns below our limit and only fails at twice its own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Corrupt EXIF", UserWarning)
        if isinstance(source, Image.Image):
            return _normalise(source, "the given image", max_pixels)
        if isinstance(source, np.ndarray):
            return _normalise(_from_array(source), "the given array", max_pixels)
        if isinstance(source, str | Path):
            with _open(Path(source), max_pixels) as image:
                return _normalise(image, str(source), max_pixels)
    raise ImageError(
        f"expected a path, a Pillow image or a uint8 array [H, W, 3], got {type(source).__name__}; convert it first"
    )


def read_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels that `read_image` would return, from what stands before the pixels.

    Raises:
        ImageError: there is no such file, it is no image, or it is too large. Damaged pixels show only when
            the picture is read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Corrupt EXIF", UserWarning)
        with _open(Path(path), max_pixels) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(str(path), f"{width} x {height}", max_pixels)
            return (width, height) if _orientation(image, decode=False) in _TURNS_SIDES else (height, width)


def _open(path: Path, max_pixels: int) -> Image.Image:
    try:
        return Image.open(path, formats=_known_formats())
    except FileNotFoundError:
        raise ImageError(f"expected an image file, got no file at {path}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"expected an image file, got a folder: {path}; name a file in it") from None
    except PermissionError:
        raise ImageError(f"expected a readable file, got no permission for {path}; change its mode") from None
    except UnidentifiedImageError:
        found = "an empty file" if path.stat().st_size == 0 else "something that is no image"
        raise ImageError(f"expected an image (JPEG, PNG, WebP, TIFF, ...), got {found}: {path}") from None
    except Image.DecompressionBombError:
        # Pillow gives no size here: it refuses at twice its own limit, while reading the header.
        raise _too_large(str(path), "more than Pillow opens", max_pixels) from None
    except _DECODE_ERRORS as error:
        raise _damaged(str(path), error) from None


def _normalise(image: Image.Image, what: str, max_pixels: int) -> Image.Image:
    """Decode, turn upright, convert to RGB; without metadata in the result nothing turns it twice."""
    if isinstance(image, ImageFile.ImageFile) and image.width * image.height > max_pixels:
        raise _too_large(what, f"{image.width} x {image.height}", max_pixels)
    try:
        image.load()
    except _DECODE_ERRORS as error:
        raise _damaged(what, error) from None
    if image.width == 0 or image.height == 0:
        raise ImageError(f"expected an image with pixels, got {image.width} x {image.height}: {what}")
    upright = _UPRIGHT.get(_orientation(image))
    if upright is not None:
        image = image.transpose(upright)
    elif type(image) is Image.Image and image.mode == "RGB" and "transparency" not in image.info:
        return image
    image = _to_rgb(image, what)
    image.info = {}
    return image


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image, what).convert("RGB")
    try:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"expected grey or RGB colours, got {image.mode}: {what}; save it as RGB") from None


def _scale_to_8_bits(image: Image.Image, what: str) -> Image.Image:
    """Grey of 16 bits or of floats to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.float32)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= top):  # also catches NaN
        raise ImageError(
            f"expected grey values in 0..{top:g}, got {low:g}..{high:g}: {what}; save it with 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    shape = tuple(array.shape)
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array, got {array.dtype}; scale to 0..255 and use .astype('uint8')")
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        raise ImageError(
            f"expected an array [H, W], [H, W, 3] or [H, W, 4], got shape {list(shape)}; channels come last"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array)


def _orientation(image: Image.Image, *, decode: bool = True) -> int:
    try:
        # A PNG's own method decodes the picture in search of metadata behind the pixels, where hardly any has it.
        exif = image.getexif() if decode or image.format != "PNG" else Image.Image.getexif(image)
        return int(exif.get(_ORIENTATION_TAG, 1))
    except _DECODE_ERRORS:
        return 1  # unreadable metadata does not make the picture unreadable


def _damaged(what: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"expected a whole image, got a damaged or truncated one: {what} ({reason}); get it again")


def _too_large(what: str, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"expected at most {max_pixels / 1e6:g} megapixels, got {size}: {what}; shrink it or cut it up")


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@dataclass(frozen=True)
class PreprocessConfig:
    """How pictures become batches.

    Attributes:
        short_side: length in pixels that the shorter side is resized to.
        long_side: limit in pixels of the longer side; where it binds, the shorter side becomes smaller.
        mean: subtracted from the RGB values in 0..1.
        std: divides the difference.
        multiple: height and width of the padded batch are multiples of this.
        whole: sides are rounded to multiples of `multiple` when resizing, so that a single image is never padded.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    multiple: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        # Lists appear when the config comes back from JSON.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not 1 <= self.short_side <= self.long_side:
            raise ValueError(f"expected 1 <= short_side <= long_side, got {self.short_side} and {self.long_side}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"expected 3 means and 3 positive deviations, got {self.mean} and {self.std}")
        if self.multiple < 1:
            raise ValueError(f"expected a multiple of at least 1, got {self.multiple}")

    @property
    def usual_short_side(self) -> int:
        """Shorter side in pixels of a photo of 4:3 at the model's size; `short_side`, unless `long_side` binds."""
        return min(self.short_side, self.long_side * 3 // 4)


class Preprocessor:
    """Resize (bilinear, antialiased), normalise and pad pictures to one batch.

    Example:
        >>> batch = Preprocessor(short_side=320, long_side=640)([Image.new("RGB", (640, 480))])
        >>> batch.pixels.shape, batch.sizes, batch.original_sizes
        (torch.Size([1, 3, 320, 426]), ((320, 426),), ((480, 640),))
    """

    def __init__(
        self,
        *,
        short_side: int = 800,
        long_side: int = 1333,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        multiple: int = 1,
        whole: bool = False,
    ) -> None:
        self.config = PreprocessConfig(
            short_side=short_side,
            long_side=long_side,
            mean=tuple(mean),  # type: ignore[arg-type]  # the config checks the length
            std=tuple(std),  # type: ignore[arg-type]
            multiple=multiple,
            whole=whole,
        )

    @classmethod
    def from_config(cls, config: PreprocessConfig) -> "Preprocessor":
        return cls(**asdict(config))

    def __call__(self, images: Sequence[Image.Image]) -> ImageBatch:
        """RGB pictures of any sizes -> batch; `sizes` are those after resizing, `original_sizes` before."""
        return self.collate([self.resize(image) for image in images], [(i.height, i.width) for i in images])

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing: the short side exact unless the long side would pass its limit.

        Extremely long and thin pictures are widened to 32 pixels, since a tower halves its input five times.
        """
        short, long = min(height, width), max(height, width)
        new_short = self.config.short_side
        new_long = new_short * long // short
        if new_long > self.config.long_side:
            new_long = self.config.long_side
            new_short = max(round(new_long * short / long), min(_MIN_SIDE, self.config.short_side))
        new_short, new_long = self.whole_side(new_short), self.whole_side(new_long)
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def resize(self, image: Image.Image) -> Image.Image:
        return _stretch(image, *self.resized_size(image.height, image.width))

    def collate(
        self, images: Sequence[Image.Image], original_sizes: Sequence[tuple[int, int]] | None = None
    ) -> ImageBatch:
        """Normalise and pad without resizing, but to whole cells; training resizes and crops by its own rules.

        Args:
            images: B RGB pictures.
            original_sizes: (height, width) of each before its resize; their present sizes by default.

        Returns:
            pixels [B, 3, H, W] float32, zero in the padding at the right and the bottom; mask [B, H, W] bool,
            True there.
        """
        if not images:
            raise ValueError("expected at least one image, got an empty list")
        if modes := {image.mode for image in images} - {"RGB"}:
            raise ValueError(f"expected RGB images, got mode {', '.join(sorted(modes))}; use read_image")
        if original_sizes is None:
            original_sizes = [(image.height, image.width) for image in images]
        images = [_stretch(image, self.whole_side(image.height), self.whole_side(image.width)) for image in images]
        sizes = tuple((image.height, image.width) for image in images)
        step = self.config.multiple
        height, width = (-(-max(size[axis] for size in sizes) // step) * step for axis in (0, 1))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        pixels = torch.zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool)
        for image, (h, w), target, padding in zip(images, sizes, pixels, mask, strict=True):
            values = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            target[:, :h, :w] = (values / 255).sub_(mean).div_(std)
            padding[:h, :w] = False
        return ImageBatch(
            pixels=pixels,
            mask=mask,
            sizes=sizes,
            original_sizes=tuple(original_sizes),
        )

    def whole_side(self, side: int) -> int:
        """A side of whole cells where the configuration wants that, else the side."""
        step = self.config.multiple
        return max(round(side / step), 1) * step if self.config.whole else side


def _stretch(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BILINEAR)
