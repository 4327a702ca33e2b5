"""Images to batches: one pre-processor for predicting, training, evaluating and exporting."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image

from cora.images.batch import ImageBatch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_MIN_SIDE = 32


@dataclass(frozen=True)
class PreprocessConfig:
    """How images become batches.

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
        """Shorter side in pixels of an image of 4:3 at the model's size; `short_side`, unless `long_side` binds."""
        return min(self.short_side, self.long_side * 3 // 4)


class Preprocessor:
    """Resize (bilinear, antialiased), normalise and pad images to one batch.

    Examples:
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
        """A preprocessor of these settings."""
        return cls(**asdict(config))

    def __call__(self, images: Sequence[Image.Image]) -> ImageBatch:
        """RGB images of any sizes -> batch; `sizes` are those after resizing, `original_sizes` before."""
        return self.collate([self.resize(image) for image in images], [(i.height, i.width) for i in images])

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing: the short side exact unless the long side would pass its limit.

        Extremely long and thin images are widened to 32 pixels, since a tower halves its input five times.
        """
        short, long = min(height, width), max(height, width)
        new_short = self.config.short_side
        new_long = new_short * long // short
        if new_long > self.config.long_side:
            new_long = self.config.long_side
            new_short = max(round(new_long * short / long), min(_MIN_SIDE, self.config.short_side))
        new_short, new_long = self.whole_side(new_short), self.whole_side(new_long)
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def typical_short_side(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Median of the shorter sides, in pixels, to which images of the sizes (height, width) are resized."""
        return sorted(min(self.resized_size(*size)) for size in sizes)[len(sizes) // 2]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the batch that an image of this size makes alone."""
        return self._whole_cells(self.resized_size(height, width))

    def resize(self, image: Image.Image) -> Image.Image:
        """The image, stretched to `resized_size`; neither normalised nor padded."""
        return _stretch(image, *self.resized_size(image.height, image.width))

    def collate(
        self, images: Sequence[Image.Image], original_sizes: Sequence[tuple[int, int]] | None = None
    ) -> ImageBatch:
        """Normalise and pad without resizing, but to whole cells; training resizes and crops by its own rules.

        Args:
            images: B RGB images.
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
        height, width = self._whole_cells((max(height for height, _ in sizes), max(width for _, width in sizes)))
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

    def _whole_cells(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        step = self.config.multiple
        return -(-size_hw[0] // step) * step, -(-size_hw[1] // step) * step

    def whole_side(self, side: int) -> int:
        """A side of whole cells where the configuration wants that, else the side."""
        step = self.config.multiple
        return max(round(side / step), 1) * step if self.config.whole else side


def _stretch(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BILINEAR)
