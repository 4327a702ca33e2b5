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

#: Limit of the kernel cache of oneDNN, PyTorch's CPU library, and its environment variable. Every image size adds
#: kernels; with oneDNN's default, 1024, a stream of images of many sizes caches hundreds of megabytes of them.
KERNELS, KERNEL_VARIABLE = "200", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@named_options
def load(name_or_path: str | Path = DEFAULT, *, device: str | torch.device | None = None) -> Predictor:
    """Load a model, ready to predict.

    Args:
        name_or_path: "nano" (the default) or "nano-ovcoco" (embedded, no download), a file that `Predictor.save` wrote,
            or the name of a CLIP tower such as "RN50-quickgelu": published settings, OpenAI's weights, an untrained
            localizer.
        device: device to compute on, such as "cuda"; None for the CPU.

    Raises:
        ModelError: unknown name (the message lists the known ones), weights that cannot be downloaded, a file that does
            not fit.
        OptionError: neither a name nor a path.
        CoraError: the device is not available.

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
