"""Class dropout: queries must obey the classes they are given (METHOD section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def complementary_groups(count: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split `count` classes at random into two groups: bool masks [count], each class in exactly one.

    Every class goes to either group with probability 1/2, whatever the others do, so the groups need not be of one
    size, and with few classes one may be empty. Processes that train together draw the same groups, as one process
    with their whole batch would.
    """
    seed = int(first_process_draw(torch.randint(2**62, ()).to(device)))
    first = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first.to(device), (~first).to(device)


def first_process_draw(drawn: Tensor) -> Tensor:
    """What the first process drew at random, in all processes: they must go the same way."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(drawn, src=0)
    return drawn
