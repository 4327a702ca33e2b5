"""A short hash of a detector's weights, to compare the models of files, runs and reports."""

from __future__ import annotations

import hashlib

from torch import nn


def weights_fingerprint(detector: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes and values of the weights, in half precision.

    Half precision, because model files store it: a detector and its saved copy have the same fingerprint.

    Args:
        detector: the module whose weights are hashed.
        without: prefixes of the names of tensors to leave out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        if name.startswith(without):
            continue
        value = tensor.detach().cpu()
        value = value.half() if value.is_floating_point() else value
        digest.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
