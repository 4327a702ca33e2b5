"""A short hash of a detector's weights, by which files, runs and reports are compared."""

from __future__ import annotations

import hashlib

from torch import nn


def weights_fingerprint(detector: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes and values of the weights, in half precision.

    Files hold half precision, so a detector and its saved copy have one fingerprint.

    Args:
        detector: whose weights.
        without: prefixes of tensor names that are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        if name.startswith(without):
            continue
        value = tensor.detach().cpu()
        value = value.half() if value.is_floating_point() else value
        digest.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
