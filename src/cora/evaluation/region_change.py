"""Effect of changed class embeddings on region accuracy, measured on the same boxes and resamples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cora.evaluation.bootstrap import Estimate, FloatArray, IntArray, estimate_of, whole_first
from cora.evaluation.region_accuracy import ranks, right_shares


@dataclass(frozen=True)
class Change:
    """A measured value before and after, and the difference after - before with the interval of paired resamples."""

    before: Estimate
    after: Estimate
    difference: Estimate

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """The three numbers with their intervals, for JSON."""
        return {name: getattr(self, name).as_dict() for name in ("before", "after", "difference")}


@dataclass(frozen=True)
class RegionChange:
    """The change of top-1 accuracy over a number of boxes, and of its mean over classes."""

    per_box: Change
    per_class: Change
    boxes: int


def region_change(
    *,
    regions: Tensor,
    labels: Tensor,
    image_index: Tensor,
    before: Tensor,
    after: Tensor,
    class_names: Sequence[str],
    chosen: Collection[str],
    counts: IntArray,
) -> RegionChange:
    """Compare two embeddings of the same classes on the boxes of some classes, with all classes competing.

    Args:
        regions: [n, D] unit embeddings of ground-truth boxes.
        labels: [n] int64 into `class_names`.
        image_index: [n] int64, the image of each box.
        before: [C, D] unit embeddings of `class_names`.
        after: [C, D] other unit embeddings of `class_names`.
        class_names: names of the C classes.
        chosen: names of the classes whose boxes count.
        counts: [R, images] multiplicities for the intervals (`bootstrap.resample_counts`).
    """
    wanted = np.isin(labels.numpy(), [place for place, name in enumerate(class_names) if name in chosen])
    images, classes = image_index.numpy()[wanted], labels.numpy()[wanted]
    all_counts = whole_first(counts)
    shares = [
        right_shares(ranks(regions @ embeddings.T, labels)[wanted] == 0, classes, images, len(class_names), all_counts)
        for embeddings in (before, after)
    ]
    (box_before, class_before), (box_after, class_after) = shares
    return RegionChange(
        per_box=change_of(box_before, box_after),
        per_class=change_of(class_before, class_after),
        boxes=int(wanted.sum()),
    )


def change_of(before: FloatArray, after: FloatArray) -> Change:
    """The change between two rows of values [1 + R]: first the measured one, then those of R paired resamples."""
    return Change(*map(estimate_of, (before, after, after - before)))
