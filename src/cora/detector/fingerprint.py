"""Which weights a detector has, as a short text: files and reports that name it are held against each other."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_fingerprint(detector: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over names, types, shapes and bytes of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
