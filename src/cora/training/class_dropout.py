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
    seed = int(first_process_draw(torch.randint(2**62, ()).to(device)))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(count, dtype=torch.bool)
    first[order[: (count + 1) // 2]] = True
    return first.to(device), (~first).to(device)


def first_process_draw(drawn: Tensor) -> Tensor:
    """What the first process drew at random, in all processes: they must go the same way."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(drawn, src=0)
    return drawn
