"""Trains the region prompt on ground-truth boxes of base classes (CORA, arXiv 2303.13076)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.detector import Detector
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.class_sampling import sample_classes
from cora.training.frozen_maps import TaskBatch, frozen_maps


class PromptTask(nn.Module):
    """Cross-entropy of the region classifier on ground-truth boxes; only the region prompt learns.

    The logits are scale * cos(region embedding, class embedding). Regions are pooled exactly. The constructor freezes
    the detector except for the prompt.

    Args:
        detector: its image tower, prompt and classifier are used.
        vocabulary: the classes, in the order of the labels.
        loss_weights: [C] weight of each class in the loss; None: 1.
        class_counts: [C] number of boxes of each class in the dataset. Boxes are then drawn with probabilities
            proportional to 1 / count, so that all classes occur equally often (LVIS). Needs `max_boxes`.
        max_boxes: largest number of boxes of a batch that are used, drawn at random; None for all.
        classes_per_step: number of classes in a step: those present, then others at random (LVIS: 100); None for all.

    Raises:
        ValueError: weights or counts of another length, or counts without `max_boxes`.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        loss_weights: Tensor | None = None,
        class_counts: Tensor | None = None,
        max_boxes: int | None = None,
        classes_per_step: int | None = None,
    ) -> None:
        super().__init__()
        for name, values in (("loss_weights", loss_weights), ("class_counts", class_counts)):
            if values is not None and values.shape != (len(vocabulary),):
                raise ValueError(f"{name}: expected shape [{len(vocabulary)}], got {list(values.shape)}")
        if class_counts is not None and max_boxes is None:
            raise ValueError("class_counts: expected max_boxes with it, since all boxes of a batch would be used")
        detector.requires_grad_(False)
        detector.prompt.requires_grad_(True)
        self.detector = detector
        self.max_boxes, self.classes_per_step = max_boxes, classes_per_step
        self.register_buffer("class_embeddings", vocabulary.embeddings.clone(), persistent=False)
        self.register_buffer("loss_weights", loss_weights, persistent=False)
        self.register_buffer("class_counts", class_counts, persistent=False)
        self.class_embeddings: Tensor
        self.loss_weights: Tensor | None
        self.class_counts: Tensor | None

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Loss and accuracy (0..1) of a batch of images or of cached feature maps."""
        c3, _, targets = frozen_maps(self.detector, batch)
        boxes, labels = self._sample(targets)
        if not len(labels):
            zero = self.class_embeddings.new_zeros(())
            return {"loss": zero, "accuracy": zero}
        regions = self._embed(c3, boxes)
        classes = sample_classes(labels, len(self.class_embeddings), self.classes_per_step)
        logits = self.detector.classifier.logits(regions, self.class_embeddings[classes])
        position = torch.full((len(self.class_embeddings),), -1, device=labels.device).index_copy(
            0, classes, torch.arange(len(classes), device=labels.device)
        )
        weights = self.loss_weights[classes] if self.loss_weights is not None else None
        loss = F.cross_entropy(logits, position[labels], weight=weights)
        accuracy = (logits.detach().argmax(dim=1) == position[labels]).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def _embed(self, c3: FeatureMap, boxes: list[Tensor]) -> Tensor:
        # No tensor before the prompt requires a gradient, so autograd records only what follows it.
        return self.detector.pooling.exact(c3, boxes, self.detector.prompted_positions())

    def _sample(self, targets: tuple[Targets, ...]) -> tuple[list[Tensor], Tensor]:
        """Boxes [T_i, 4] of each image and their labels [sum T_i], at most `max_boxes` in all."""
        labels = torch.cat([one.classes for one in targets])
        keep = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if self.max_boxes is not None and len(labels) > self.max_boxes:
            weights = torch.ones(len(labels), device=labels.device)
            if self.class_counts is not None:
                weights = 1.0 / self.class_counts[labels].clamp(min=1).float()
            drawn = torch.multinomial(weights, self.max_boxes)
            keep = torch.zeros_like(keep).index_fill(0, drawn, True)
        masks = keep.split([len(one) for one in targets])
        return [one.boxes_cxcywh[mask] for one, mask in zip(targets, masks, strict=True)], labels[keep]
