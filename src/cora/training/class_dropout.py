"""Class dropout: teaches queries to find only the classes they are given (METHOD section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def complementary_groups(count: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split `count` classes at random into two groups: bool masks [count], each class in exactly one.

    Every class goes to either group with probability 1/2, independently. The groups may differ in size, and one may be
    empty. Processes that train together draw the same groups.
    """
    seed = int(first_process_draw(torch.randint(2**62, ()).to(device)))
    first = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first.to(device), (~first).to(device)


def first_process_draw(drawn: Tensor) -> Tensor:
    """Broadcast a random draw of the first process, so that all processes take the same branch."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(drawn, src=0)
    return drawn
