"""Region prompting: train the prompt on ground-truth boxes of the base classes (CORA, arXiv 2303.13076)."""

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
    """Cross-entropy over the classes of scale * cos(region, class embedding); only the prompt learns.

    Regions are pooled exactly (RoIAlign of C3, layer4, attention pool). Freezes all of the detector but the
    prompt.

    Args:
        detector: its towers, prompt and classifier are used, its localizer is not.
        vocabulary: classes that target indices point into.
        loss_weights: [C] weight of each class in the loss, 1 by default.
        class_counts: [C] boxes of each class in the data; draws boxes with a chance inverse to it, which
            gives the classes equal weight (LVIS). Needs `max_boxes`.
        max_boxes: boxes used of a batch at most, drawn at random.
        classes_per_step: distinguish between so many classes only, those present first, others at random
            (LVIS: 100).
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
        """Loss and accuracy of a batch of images, or of maps from a feature cache."""
        c3, _, targets = frozen_maps(self.detector, batch)
        boxes, labels = self._sample(targets)
        if not len(labels):
            zero = self.class_embeddings.new_zeros(())
            return {"loss": zero, "accuracy": zero}
        regions = self._embed(c3, boxes)
        classes = sample_classes(labels, len(self.class_embeddings), self.classes_per_step)
        logits = self.detector.classifier.logits(regions, self.class_embeddings[classes])
        place = torch.full((len(self.class_embeddings),), -1, device=labels.device).index_copy(
            0, classes, torch.arange(len(classes), device=labels.device)
        )
        weights = self.loss_weights[classes] if self.loss_weights is not None else None
        loss = F.cross_entropy(logits, place[labels], weight=weights)
        accuracy = (logits.detach().argmax(dim=1) == place[labels]).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def _embed(self, c3: FeatureMap, boxes: list[Tensor]) -> Tensor:
        # Nothing before the prompt requires a gradient, so autograd records what follows it only.
        return self.detector.pooling.exact(c3, boxes, self.detector.prompted_positions())

    def _sample(self, targets: tuple[Targets, ...]) -> tuple[list[Tensor], Tensor]:
        """Boxes of each image and their classes [sum T], at most `max_boxes` of them."""
        labels = torch.cat([one.classes for one in targets])
        keep = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if self.max_boxes is not None and len(labels) > self.max_boxes:
            chances = torch.ones(len(labels), device=labels.device)
            if self.class_counts is not None:
                chances = 1.0 / self.class_counts[labels].clamp(min=1).float()
            drawn = torch.multinomial(chances, self.max_boxes)
            keep = torch.zeros_like(keep).index_fill(0, drawn, True)
        kept = keep.split([len(one) for one in targets])
        return [one.boxes_cxcywh[mine] for one, mine in zip(targets, kept, strict=True)], labels[keep]
