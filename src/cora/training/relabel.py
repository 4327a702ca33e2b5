"""CLIP-aligned labelling: give every base box the class that the region classifier sees in it (METHOD
section 6).

Annotators and CLIP disagree on some boxes; anchors over such boxes are pre-matched to another class than the
box and never match it. With labels that agree with the classifier more anchors take part in training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.errors import DataError
from cora.images import read_image
from cora.regions import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often the classifier's choice is the annotated class.

    Attributes:
        boxes: boxes relabelled in all.
        agreed: of them, boxes whose class did not change.
        by_class: class name -> (boxes, agreed), by annotated class.
    """

    boxes: int
    agreed: int
    by_class: dict[str, tuple[int, int]]

    @property
    def share(self) -> float:
        """Agreed boxes in 0..1; 1 if there are none to disagree on."""
        return self.agreed / self.boxes if self.boxes else 1.0


@torch.inference_mode()
def relabel(
    *,
    detector: Detector,
    vocabulary: Vocabulary,
    dataset: CocoDataset,
    output: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Write a copy of the dataset's annotation file with the classifier's choice as category of every box.

    The annotated category stays beside it as `original_category_id`; crowd boxes and boxes of other classes
    are copied as they are.

    Args:
        detector: towers and trained prompt; exact pooling.
        vocabulary: the base classes, in the dataset's order.
        dataset: of the annotation file.
        output: new file, written at once at the end; must not be the dataset's own.
        on_progress: called with (photos done, photos in all).

    Raises:
        DataError: other classes than the dataset's, or the output would replace the original.
    """
    if vocabulary.names != dataset.class_names:
        raise DataError(
            f"relabelling needs the dataset's classes in its order, got {len(vocabulary)} names for "
            f"{len(dataset.class_names)} classes; encode dataset.class_names"
        )
    if output.resolve() == dataset.annotations.resolve():
        raise DataError(f"{output} is the original annotation file; name another output")
    content = json.loads(dataset.annotations.read_text(encoding="utf-8"))
    category_of = {category["name"]: category["id"] for category in content["categories"]}
    counts = torch.zeros(2, len(vocabulary), dtype=torch.int64)
    for done, record in enumerate(dataset.records, start=1):
        if len(record.classes):
            batch = detector.preprocessor([read_image(record.path)]).to(detector.device)
            c3, _ = detector.encode(batch)
            boxes = targets_of(record).boxes_cxcywh[None].to(detector.device)
            chosen = detector.classify(c3, boxes, vocabulary)[0].argmax(dim=-1).cpu()
            for entry, label in zip(record.entries.tolist(), chosen.tolist(), strict=True):
                annotation = content["annotations"][entry]
                annotation.setdefault("original_category_id", annotation["category_id"])
                annotation["category_id"] = category_of[vocabulary.names[label]]
            counts[0] += torch.bincount(record.classes, minlength=len(vocabulary))
            agreed = record.classes[chosen == record.classes]
            counts[1] += torch.bincount(agreed, minlength=len(vocabulary))
        if on_progress is not None:
            on_progress(done, len(dataset.records))
    temporary = output.with_suffix(".part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, output)
    by_class = {name: (int(n), int(k)) for name, n, k in zip(vocabulary.names, *counts.tolist(), strict=True)}
    return Agreement(boxes=int(counts[0].sum()), agreed=int(counts[1].sum()), by_class=by_class)
