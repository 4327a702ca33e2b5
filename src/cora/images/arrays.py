"""Arrays and tensors of pixels to images."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cora.errors import ImageError

_CHANNELS = (1, 3, 4)


def from_array(array: NDArray[np.uint8]) -> Image.Image:
    """A uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA) as image.

    Raises:
        ImageError: another type or shape.
    """
    shape = tuple(array.shape)
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array, got {array.dtype}; scale to 0..255 and use .astype('uint8')")
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in _CHANNELS)) or 0 in shape:
        advice = "pass images one by one, or as list" if array.ndim == 4 else "channels come last"
        raise ImageError(f"expected an array [H, W], [H, W, 3] or [H, W, 4], got shape {list(shape)}; {advice}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array)


def from_tensor(tensor: torch.Tensor) -> Image.Image:
    """A uint8 tensor as image: [C, H, W] as torchvision has it, [H, W, C] or [H, W], with C of 1, 3 or 4.

    Where both could be meant, as in [3, 5, 4], the channels come first.

    Raises:
        ImageError: another type or shape.
    """
    shape = tuple(tensor.shape)
    if tensor.dtype != torch.uint8:
        got = str(tensor.dtype).removeprefix("torch.")
        raise ImageError(f"expected a uint8 tensor, got {got}; scale to 0..255 and use .to(torch.uint8)")
    first = tensor.ndim == 3 and shape[0] in _CHANNELS
    if not (first or tensor.ndim == 2 or (tensor.ndim == 3 and shape[2] in _CHANNELS)) or 0 in shape:
        raise ImageError(
            f"expected a tensor [3, H, W], [H, W, 3] or [H, W], got shape {list(shape)}; pass images one by one"
        )
    values = tensor.detach().cpu()
    return from_array((values.permute(1, 2, 0) if first else values).contiguous().numpy())
