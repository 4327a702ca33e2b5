"""Pre-processing for a graph of one input size: images are resized to fit into it, and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from PIL import Image
from torch.nn import functional as F

from cora.errors import ModelError
from cora.images import PreprocessConfig, Preprocessor
from cora.structures import ImageBatch


class FixedSizePreprocessor(Preprocessor):
    """Resizes images as the model does, or to a smaller size that fits, and pads them to the size of the graph.

    Args:
        config: the model's.
        size_hw: (height, width) of every batch in pixels.

    Raises:
        ModelError: the model does not take this size, see `check_size`.
    """

    def __init__(self, *, config: PreprocessConfig, size_hw: tuple[int, int]) -> None:
        super().__init__(**asdict(config))
        check_size(size_hw, config)
        self.size_hw = size_hw

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing: as the model has it, or the largest of the same shape that fits."""
        wanted = super().resized_size(height, width)
        if wanted[0] <= self.size_hw[0] and wanted[1] <= self.size_hw[1]:
            return wanted
        share = min(self.size_hw[0] / height, self.size_hw[1] / width)
        # A tower halves its input five times, so that the short side of very long images is widened to 32 pixels.
        fitted = (self.whole_side(max(round(side * share), 32)) for side in (height, width))
        return (min(next(fitted), self.size_hw[0]), min(next(fitted), self.size_hw[1]))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The fixed size, whatever the image's."""
        return self.size_hw

    def collate(
        self, images: Sequence[Image.Image], original_sizes: Sequence[tuple[int, int]] | None = None
    ) -> ImageBatch:
        """As the base class does, padded to the fixed size; images must fit.

        Raises:
            ValueError: an image is larger than the fixed size.
        """
        batch = super().collate(images, original_sizes)
        missing = [wanted - there for wanted, there in zip(self.size_hw, batch.pixels.shape[-2:], strict=True)]
        if min(missing) < 0:
            raise ValueError(
                f"expected images of at most {self.size_hw} pixels, got {tuple(batch.pixels.shape[-2:])}; resize them"
            )
        padding = (0, missing[1], 0, missing[0])
        mask = F.pad(batch.mask.to(torch.uint8), padding, value=1).bool()
        return ImageBatch(F.pad(batch.pixels, padding), mask, batch.sizes, batch.original_sizes)


def check_size(size_hw: tuple[int, int], config: PreprocessConfig) -> None:
    """Check that a model takes batches of this (height, width) in pixels.

    Raises:
        ModelError: the sides are not multiples of the model's step.
    """
    step = config.multiple
    if size_hw[0] % step or size_hw[1] % step:
        nearest = "x".join(str(max(round(side / step), 1) * step) for side in size_hw)
        raise ModelError(
            f"size: expected height and width in multiples of {step} for this model, got "
            f"{size_hw[0]}x{size_hw[1]}; use {nearest}"
        )
