"""Which queries may match which boxes: those of the same class or of a similar one (CORA, arXiv 2303.13076)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cora.structures import Targets


def similar_classes(embeddings: Tensor, *, cosine: float | None = None, groups: Sequence[int] | None = None) -> Tensor:
    """Pairs of classes whose queries and boxes may match.

    Args:
        embeddings: [C, D] of the classes, any length.
        cosine: classes with a cosine above it are alike (0.7 for LVIS); None: none are for that reason.
        groups: group of each class (`cora.regions.groups.class_groups`); classes of one group are alike.

    Returns:
        [C, C] bool, symmetric, True on the diagonal; nothing else is True if neither rule is given.

    Raises:
        ValueError: not one group for every class.
    """
    count = len(embeddings)
    similar = torch.eye(count, dtype=torch.bool, device=embeddings.device)
    if cosine is not None:
        directions = F.normalize(embeddings.float(), dim=-1)
        similar |= directions @ directions.T > cosine
    if groups is not None:
        if len(groups) != count:
            raise ValueError(f"class groups: expected one for each of {count} classes, got {len(groups)}")
        of_class = torch.as_tensor(groups, device=embeddings.device)
        similar |= of_class[:, None] == of_class
    # Rounding may take the product of two rows across the limit in one order only.
    return similar | similar.T


def allowed_pairs(query_classes: Tensor, targets: Sequence[Targets], similar: Tensor) -> list[Tensor]:
    """Mask for the matcher: True where a query may match a box.

    Args:
        query_classes: [B, N] int64 pre-matched class of every query.
        targets: boxes of each image, T of them.
        similar: [C, C] bool, from `similar_classes`.

    Returns:
        For each image [N, T] bool.
    """
    return [similar[row][:, one.classes] for row, one in zip(query_classes, targets, strict=True)]
