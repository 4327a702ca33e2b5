"""Class dropout: queries must obey the classes they are given (METHOD section 6)."""

from __future__ import annotations

import torch
from torch import Tensor


def complementary_groups(count: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split `count` classes at random into two groups: bool masks [count], each class in exactly one.

    Neither group is empty when there are at least two classes; sizes differ by at most one, so that either
    copy of a batch keeps about half of its boxes.
    """
    order = torch.randperm(count)
    first = torch.zeros(count, dtype=torch.bool)
    first[order[: (count + 1) // 2]] = True
    return first.to(device), (~first).to(device)
