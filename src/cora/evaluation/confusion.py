"""Confusion of the region classifier on ground-truth boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.predict import Progress
from cora.regions import Vocabulary

if TYPE_CHECKING:
    from cora.detector import Detector


@torch.no_grad()
def region_confusion(
    detector: Detector,
    dataset: CocoDataset,
    vocabulary: Vocabulary,
    *,
    indices: Sequence[int] | None = None,
    progress: Progress = iter,
) -> Tensor:
    """Count for every ground-truth box (crowds excepted) its class and the one that exact pooling chooses.

    Args:
        detector: towers and prompt are used, the localizer is not.
        dataset: annotated images.
        vocabulary: of the dataset's classes, in its order.
        indices: which images, all by default.
        progress: wraps the indices.

    Returns:
        [C, C] int64: annotated class by chosen class.

    Raises:
        DataError: other classes than the dataset's.
    """
    if vocabulary.names != dataset.class_names:
        raise DataError(
            f"confusion: expected the dataset's {len(dataset.class_names)} classes in its order, got "
            f"{len(vocabulary)} other names; encode dataset.class_names"
        )
    counts = torch.zeros(len(vocabulary), len(vocabulary), dtype=torch.int64)
    for index in progress(range(len(dataset)) if indices is None else indices):
        if not len(dataset.records[index].classes):
            continue
        image, targets, _ = dataset[index]
        c3, _ = detector.encode(detector.preprocessor([image]).to(detector.device))
        chosen = detector.classify(c3, targets.boxes_cxcywh[None].to(detector.device), vocabulary)[0].argmax(dim=-1)
        counts.index_put_((targets.classes, chosen.cpu()), torch.tensor(1), accumulate=True)
    return counts
