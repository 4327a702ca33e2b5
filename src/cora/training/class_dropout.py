"""Class dropout: queries must obey the classes they are given (METHOD section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def complementary_groups(count: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split `count` classes at random into two groups: bool masks [count], each class in exactly one.

    Neither group is empty when there are at least two classes; sizes differ by at most one, so that either
    copy of a batch keeps about half of its boxes. Processes that train together draw the same groups, as one
    process with their whole batch would.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_shared_seed(device)))
    first = torch.zeros(count, dtype=torch.bool)
    first[order[: (count + 1) // 2]] = True
    return first.to(device), (~first).to(device)


def _shared_seed(device: torch.device | str) -> int:
    """A random number, the first process's in all of them."""
    seed = torch.randint(2**62, ()).to(device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(seed, src=0)
    return int(seed)
