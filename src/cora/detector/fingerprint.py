"""Which weights a detector has, as a short text: files, runs and reports that name it are held against each other."""

from __future__ import annotations

import hashlib

from torch import nn


def weights_fingerprint(detector: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """First 16 hex digits of the SHA-256 over names, shapes and values of the weights, in half precision.

    Files hold half precision, so a detector and its saved copy have one fingerprint.

    Args:
        detector: whose weights.
        without: parts, by the beginning of their names, that do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        if name.startswith(without):
            continue
        value = tensor.detach().cpu()
        value = value.half() if value.is_floating_point() else value
        digest.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
