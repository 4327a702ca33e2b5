"""Arrays and tensors of pixels to images."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cora.errors import ImageError

_CHANNELS = (1, 3, 4)
#: Kinds of NumPy's types that hold no numbers: texts, objects, records.
_NO_NUMBERS = "OSUV"


def from_array(array: NDArray[np.uint8]) -> Image.Image:
    """A uint8 array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA) as image.

    Raises:
        ImageError: another type or shape.
    """
    shape = tuple(array.shape)
    if array.dtype.kind in _NO_NUMBERS:
        raise ImageError(
            f"expected a uint8 array of one image, got one of {array.dtype.name}; give several paths or images as list "
            "(.tolist())"
        )
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array, got {array.dtype}; scale to 0..255 and use .astype('uint8')")
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in _CHANNELS)) or 0 in shape:
        advice = {1: "give the bytes of a file as bytes (.tobytes())", 4: "pass images one by one, or as list"}.get(
            array.ndim, "channels come last"
        )
        raise ImageError(f"expected an array [H, W], [H, W, 3] or [H, W, 4], got shape {list(shape)}; {advice}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array)


def from_tensor(tensor: torch.Tensor) -> Image.Image:
    """A uint8 tensor as image: [C, H, W] as torchvision has it, [H, W, C] or [H, W], with C of 1, 3 or 4.

    Where both could be meant, as in [3, 5, 4], the channels come first.

    Raises:
        ImageError: another type or shape.
    """
    shape = tuple(tensor.shape)
    if tensor.is_meta or tensor.layout is not torch.strided:
        kind = "one without values (meta)" if tensor.is_meta else f"one of {tensor.layout}"
        raise ImageError(f"expected a dense uint8 tensor, got {kind}; make it one first")
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
