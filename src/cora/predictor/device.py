"""The device that a command computes on."""

import torch

from cora.errors import CoraError


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is the GPU if there is one. Raises CoraError if it is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        available = device.type != "meta"  # which has shapes, but no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        # torch's own message has several lines and mentions internals.
        available = False
    if not available:
        raise CoraError(f"expected a device of this machine, got {name!r}; use --device cpu")
    return device
