"""`cora.load`: a predictor by name or file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cora.detector.presets import DEFAULT
from cora.detector.presets import load as load_network
from cora.errors import CoraError, OptionError
from cora.predictor.predictor import Predictor
from cora.predictor.settings import named_options

#: How many prepared kernels PyTorch's CPU library (oneDNN) keeps, and the variable that says so. Every size of image
#: adds some; with the library's own bound, 1024, a stream of images of many sizes holds hundreds of megabytes of them.
KERNELS, KERNEL_VARIABLE = "200", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@named_options
def load(name_or_path: str | Path = DEFAULT, *, device: str | torch.device | None = None) -> Predictor:
    """Load a model, ready to predict.

    Args:
        name_or_path: "nano" (the default) or "nano-ovcoco" (embedded, no download), a file that `Predictor.save` wrote,
            or the name of a CLIP tower such as "RN50-quickgelu": published settings, OpenAI's weights, a localizer
            still to train.
        device: where it computes, such as "cuda"; None for the CPU.

    Raises:
        ModelError: unknown name (the known are listed), weights that cannot be had, a file that does not fit.
        OptionError: neither a name nor a path.
        CoraError: there is no such device.

    Examples:
        >>> predictor = cora.load("nano", device="cpu")
        >>> predictor.device
        device(type='cpu')
    """
    if not isinstance(name_or_path, str | Path):
        raise OptionError(
            f'load: expected the name of a model, such as "nano", or the path of a file, got {name_or_path!r}'
        )
    os.environ.setdefault(KERNEL_VARIABLE, KERNELS)  # read once, by the first convolution of the process
    predictor = Predictor(load_network(name_or_path))
    if device is None:
        return predictor
    try:
        return predictor.to(device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).strip().splitlines()
        raise CoraError(f"device: expected one that PyTorch has here, got {device!r} ({(reason or [''])[0]})") from None
