"""Which queries may match which boxes: those of the same or a similar class (CORA, arXiv 2303.13076)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cora.structures import Targets


def similar_classes(embeddings: Tensor, *, cosine: float | None = None, groups: Sequence[int] | None = None) -> Tensor:
    """Pairs of similar classes: a query of one may match a box of the other.

    Args:
        embeddings: [C, D] class embeddings of any norm.
        cosine: classes with a cosine above it are similar (LVIS: 0.7); None turns this rule off.
        groups: group of each class (`cora.regions.groups.class_groups`); classes of one group are similar. None turns
            this rule off.

    Returns:
        [C, C] bool, symmetric, True on the diagonal; without any rule, only there.

    Raises:
        ValueError: the number of groups is not that of the classes.
    """
    count = len(embeddings)
    similar = torch.eye(count, dtype=torch.bool, device=embeddings.device)
    if cosine is not None:
        unit = F.normalize(embeddings.float(), dim=-1)
        similar |= unit @ unit.T > cosine
    if groups is not None:
        if len(groups) != count:
            raise ValueError(f"class groups: expected one for each of {count} classes, got {len(groups)}")
        group_of_class = torch.as_tensor(groups, device=embeddings.device)
        similar |= group_of_class[:, None] == group_of_class
    # a @ b and b @ a may round to different sides of the threshold.
    return similar | similar.T


def allowed_pairs(query_classes: Tensor, targets: Sequence[Targets], similar: Tensor) -> list[Tensor]:
    """Mask of the pairs that the matching may use.

    Args:
        query_classes: [B, N] int64 pre-matched class of every query.
        targets: the T boxes of each image.
        similar: [C, C] bool, from `similar_classes`.

    Returns:
        For each image [N, T] bool, True where the query may match the box.
    """
    return [similar[row][:, one.classes] for row, one in zip(query_classes, targets, strict=True)]
