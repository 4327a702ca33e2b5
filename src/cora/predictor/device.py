"""Where a command computes."""

import torch

from cora.errors import CoraError


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the GPU if there is one. Raises CoraError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        # torch's own text runs over several lines and names internals.
        raise CoraError(f"expected a device of this machine, got {name!r}; use --device cpu") from None
    return device
