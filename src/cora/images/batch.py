"""Images of a batch: checked where it is made, plain tensors inside. Sizes are (height, width)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes, padded at the right and bottom to the largest.

    Attributes:
        pixels: [B, 3, H, W] float, normalised as the image tower expects, zero where padded.
        mask: [B, H, W] bool, True where padded.
        sizes: (height, width) of each image inside the batch, after resizing, without padding.
        original_sizes: (height, width) of each image before resizing.
    """

    pixels: Tensor
    mask: Tensor
    sizes: tuple[Size, ...]
    original_sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        count, height, width = self.pixels.shape[0], *self.pixels.shape[-2:]
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"pixels: expected shape [B, 3, H, W], got {list(self.pixels.shape)}")
        if self.mask.shape != (count, height, width) or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected bool of shape {[count, height, width]}, "
                f"got {self.mask.dtype} of shape {list(self.mask.shape)}"
            )
        if len(self.sizes) != count or len(self.original_sizes) != count:
            raise ValueError(
                f"sizes: expected one per image ({count}), "
                f"got {len(self.sizes)} and {len(self.original_sizes)} originals"
            )

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def pin_memory(self) -> ImageBatch:
        """The same batch in page-locked memory, for faster copies to a GPU; a `DataLoader` asks for it."""
        return replace(self, pixels=self.pixels.pin_memory(), mask=self.mask.pin_memory())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageBatch:
        """The same batch on another device, pixels in another floating type if given."""
        return ImageBatch(
            pixels=self.pixels.to(device=device, dtype=dtype),
            mask=self.mask.to(device),
            sizes=self.sizes,
            original_sizes=self.original_sizes,
        )
