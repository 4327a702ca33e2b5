"""Confusion of the region classifier on ground-truth boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cora.errors import DataError
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.regions import Vocabulary


def region_confusion(regions: EmbeddedRegions, vocabulary: Vocabulary) -> Tensor:
    """Count ground-truth boxes by their class and the class that exact pooling with the region prompt chooses.

    Args:
        regions: the boxes.
        vocabulary: the C classes of their dataset, in its order.

    Returns:
        [C, C] int64: boxes by annotated and chosen class.

    Raises:
        DataError: the vocabulary has other classes than the dataset.
    """
    if vocabulary.names != regions.class_names:
        raise DataError(
            f"confusion: expected the dataset's {len(regions.class_names)} classes in its order, got "
            f"{len(vocabulary)} other names; encode dataset.class_names"
        )
    counts = torch.zeros(len(vocabulary), len(vocabulary), dtype=torch.int64)
    chosen = nearest_class(regions.prompted, vocabulary.embeddings)
    counts.index_put_((regions.classes, chosen), torch.tensor(1), accumulate=True)
    return counts


def nearest_class(regions: Tensor, embeddings: Tensor) -> Tensor:
    """The class [n] int64 whose embedding in [C, D] has the highest cosine with each of the unit regions [n, D]."""
    return (regions @ embeddings.to(regions).T).argmax(dim=1)
