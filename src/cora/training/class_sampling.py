"""Which classes a step uses.

Class dropout (CORA, arXiv 2303.13076) teaches queries to find only the classes they are given. Class sampling takes
some of very many (LVIS: 100).
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def sample_classes(present: Tensor, count: int, wanted: int | None) -> Tensor:
    """Draw the classes of a step: classes present in the batch first, then random others.

    Args:
        present: [...] int64 classes of the boxes at hand, repeats allowed.
        count: classes in all.
        wanted: how many are drawn; never fewer than are present, so that no box is lost. None for all.

    Returns:
        Distinct indices in 0..count-1, on the device of `present`; all in order if all are wanted.
    """
    if wanted is None or wanted >= count:
        return torch.arange(count, device=present.device)
    known = present.unique()
    absent = torch.ones(count, dtype=torch.bool, device=present.device).index_fill(0, known, False).nonzero()[:, 0]
    chosen = torch.randperm(len(absent), device=present.device)[: max(0, wanted - len(known))]
    return torch.cat([known, absent[chosen]])


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
