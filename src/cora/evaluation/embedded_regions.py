"""Region embeddings of ground-truth boxes, with and without the region prompt."""

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
    """The ground-truth boxes of some images, crowds excepted.

    Attributes:
        prompted: [n, D] float32 unit embeddings by exact pooling with the region prompt, on the CPU.
        plain: [n, D] the same without the region prompt.
        classes: [n] int64 indices into `class_names`.
        image_index: [n] int64 image of each box, in 0..images-1.
        images: number of images, including those without a box.
        class_names: class names of the dataset.
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
    """Embed all ground-truth boxes with and without the region prompt.

    Args:
        detector: its image tower and region prompt are used.
        dataset: annotated images.
        indices: indices of the images, by default of all.
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
