"""Embeddings of ground-truth boxes with and without the region prompt: what the image tower makes of each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.predict import Progress
from cora.evaluation.region_accuracy import no_prompt


@dataclass(frozen=True, kw_only=True)
class EmbeddedRegions:
    """Every ground-truth box of some images, crowds excepted.

    Attributes:
        prompted: [n, D] float32 on the CPU, unit norm, by exact pooling with the prompt.
        plain: [n, D], the same without it.
        classes: [n] int64 into `class_names`.
        image_index: [n] int64 in 0..images-1.
        images: how many images, those without a box included.
        class_names: of the dataset.
    """

    prompted: Tensor
    plain: Tensor
    classes: Tensor
    image_index: Tensor
    images: int
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)


@torch.no_grad()
def embed_both_ways(
    detector: Detector, dataset: CocoDataset, *, indices: Sequence[int] | None = None, progress: Progress = iter
) -> EmbeddedRegions:
    """Embed all ground-truth boxes with and without the prompt.

    Args:
        detector: towers and prompt are used, the localizer is not.
        dataset: annotated images.
        indices: which images, all by default.
        progress: wraps the indices.
    """
    chosen = range(len(dataset)) if indices is None else indices
    none = torch.zeros(0, dtype=torch.int64)
    prompted, plain = ([torch.zeros(0, detector.image_tower.embed_dim)] for _ in range(2))
    classes, places = [none], [none]
    for place, index in enumerate(progress(chosen)):
        if not len(dataset.records[index].classes):
            continue
        image, targets, _ = dataset[index]
        c3, _ = detector.encode(detector.preprocessor([image]).to(detector.device))
        boxes = targets.boxes_cxcywh[None].to(detector.device)
        prompted.append(detector.embed_exact(c3, boxes)[0].float().cpu())
        with no_prompt(detector):
            plain.append(detector.embed_exact(c3, boxes)[0].float().cpu())
        classes.append(targets.classes)
        places.append(torch.full_like(targets.classes, place))
    return EmbeddedRegions(
        prompted=torch.cat(prompted),
        plain=torch.cat(plain),
        classes=torch.cat(classes),
        image_index=torch.cat(places),
        images=len(chosen),
        class_names=dataset.class_names,
    )
