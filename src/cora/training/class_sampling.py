"""Class sampling: with very many classes a step uses only some of them (METHOD section 6; LVIS: 100)."""

from __future__ import annotations

import torch
from torch import Tensor


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
