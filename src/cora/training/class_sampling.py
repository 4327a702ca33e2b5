"""Draws the classes of a training step.

Class dropout (CORA, arXiv 2303.13076) hides classes, so that queries learn to find only classes that they are given.
Class sampling limits the number of classes in a step, for vocabularies that are very large (LVIS: 100 a step).
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def sample_classes(present: Tensor, count: int, wanted: int | None) -> Tensor:
    """Draw the classes of a step: all that are present in the batch, then random others.

    Args:
        present: [...] int64 classes of the boxes in the batch, repeats allowed.
        count: number of all classes.
        wanted: number of classes to draw; if more are present, all of these are taken, so that no box is lost. None
            for all classes.

    Returns:
        [K] int64 distinct indices in 0..count-1, on the device of `present`; ascending if all classes are taken.
    """
    if wanted is None or wanted >= count:
        return torch.arange(count, device=present.device)
    present = present.unique()
    absent = torch.ones(count, dtype=torch.bool, device=present.device).index_fill(0, present, False).nonzero()[:, 0]
    chosen = torch.randperm(len(absent), device=present.device)[: max(0, wanted - len(present))]
    return torch.cat([present, absent[chosen]])


def complementary_groups(count: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split `count` classes at random into two groups: bool masks [count], each class in exactly one.

    Every class goes to either group with probability 1/2, independently. The groups may differ in size, and one may be
    empty. All processes of a run draw the same groups.
    """
    seed = int(first_process_draw(torch.randint(2**62, ()).to(device)))
    first = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first.to(device), (~first).to(device)


def first_process_draw(drawn: Tensor) -> Tensor:
    """Replace `drawn`, a random number, by that of the first process, so that all processes take the same branch."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(drawn, src=0)
    return drawn
