"""Fine-tunes class names: learns an offset of each class's text embedding from the boxes of a dataset.

The text tower often does not know the class names of a special dataset ("RBC", "rolled-in scale"). Training the region
prompt would change the scores of all class names, since they share it. An offset changes one class only, so the
classification of all other names stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from cora.detector import Detector
from cora.errors import TrainingError
from cora.names import names_without
from cora.regions import EVERYDAY_NAMES, Vocabulary
from cora.regions.learned_text import LearnedContext, LearnedOffsets
from cora.structures import FeatureMap
from cora.training.frozen_maps import TaskBatch, frozen_maps
from cora.training.losses import class_loss_weights
from cora.training.recipe import NamesStage
from cora.training.region_embeddings import RegionEmbeddings

#: Shortest side of a noised box, as a share of the image.
MIN_SIDE = 1e-3
#: A random box is background if its IoU with every object is below this.
MAX_BACKGROUND_IOU = 0.2


class NamesTask(nn.Module):
    """Cross-entropy of regions over the classes and distractors; only the offsets of the classes learn.

    Regions of noised ground-truth boxes are embedded twice: by exact pooling, as for final boxes, and by fast pooling,
    as for anchors. The loss is the mean of both.

    Args:
        detector: its image tower, prompt and classifier are used; all of it is frozen.
        vocabulary: the C classes, in the order of the labels, embedded without their offsets.
        others: [M, D] embeddings of distractors, names of other objects, which are wrong for every box.
        offsets: has an offset for every class; its other parameters are frozen.
        loss_weights: [C] weight of each class in the loss; None: 1.
        box_noise: each corner coordinate moves by up to this share of half the box's side.
        background: weight of a second loss, on random boxes without an annotated object: cross-entropy over the
            classes and the classifier's background, with background as the target. 0 for none.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        others: Tensor,
        offsets: LearnedOffsets,
        loss_weights: Tensor | None = None,
        box_noise: float = 0.2,
        background: float = 0.5,
    ) -> None:
        super().__init__()
        detector.requires_grad_(False)
        offsets.requires_grad_(False)
        offsets.own.requires_grad_(True)
        self.detector, self.offsets, self.names = detector, offsets, vocabulary.names
        self.box_noise, self.background = box_noise, background
        self.register_buffer("class_embeddings", vocabulary.embeddings.clone(), persistent=False)
        self.register_buffer("others", others.clone(), persistent=False)
        weights = torch.ones(len(vocabulary)) if loss_weights is None else loss_weights
        self.register_buffer("loss_weights", torch.cat([weights, torch.ones(len(others))]), persistent=False)
        self.class_embeddings: Tensor
        self.others: Tensor
        self.loss_weights: Tensor

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Loss, and accuracy (0..1) by exact and by fast pooling, of a batch of images or of cached feature maps."""
        c3, c4, targets = frozen_maps(self.detector, batch)
        labels = torch.cat([one.classes for one in targets])
        embeddings = torch.cat([self.offsets(self.class_embeddings, self.names), self.others])
        if not len(labels):
            zero = embeddings.sum() * 0
            return {"loss": zero, "accuracy": zero.detach(), "accuracy_fast": zero.detach()}
        count = len(self.class_embeddings)
        with torch.no_grad():
            objects = [self._noised(one.boxes_cxcywh) for one in targets]
            empty = [self._background_boxes(one.boxes_cxcywh) for one in targets]
            pooled = self._embed(c3, c4, [torch.cat(pair) for pair in zip(objects, empty, strict=True)])
        is_object = torch.cat([_object_mask(len(one), len(other)) for one, other in zip(objects, empty, strict=True)])
        accuracies: dict[str, Tensor] = {}
        losses = []
        for name, regions in zip(("accuracy", "accuracy_fast"), pooled, strict=True):
            logits = self.detector.classifier.logits(regions, embeddings)
            objects_logits = logits[is_object]
            empty_logits = F.pad(logits[~is_object][:, :count], (0, 1), value=self.detector.classifier.background_logit)
            losses.append(F.cross_entropy(objects_logits, labels, weight=self.loss_weights))
            if len(empty_logits) and self.background:
                losses[-1] = losses[-1] + self.background * -empty_logits.log_softmax(dim=1)[:, -1].mean()
            accuracies[name] = (objects_logits.detach().argmax(dim=1) == labels).float().mean()
        return {"loss": torch.stack(losses).mean(), **accuracies}

    @torch.no_grad()
    def start_from(self, regions: RegionEmbeddings, *, share: float) -> None:
        """Initialise the offsets from prototypes, the mean region embeddings of the classes.

        The embedding of a class with boxes becomes unit((1 - share) * text embedding + share * unit(prototype)).

        Args:
            regions: of boxes of these classes, with labels in their order.
            share: weight of the prototype, 0..1.
        """
        text = self.offsets(self.class_embeddings, self.names)
        sums = torch.zeros_like(text).index_add(0, regions.labels.to(text.device), regions.regions.to(text))
        mixed = F.normalize((1 - share) * text + share * F.normalize(sums, dim=-1), dim=-1)
        has_box = (regions.class_counts() > 0).to(text.device)[:, None]
        self.offsets.lead_to(torch.where(has_box, mixed, text), self.class_embeddings, self.names)

    def _noised(self, boxes_cxcywh: Tensor) -> Tensor:
        if not self.training or not self.box_noise:
            return boxes_cxcywh
        half_sides = boxes_cxcywh[:, 2:].repeat(1, 2) / 2
        shift = (torch.rand_like(boxes_cxcywh) * 2 - 1) * self.box_noise * half_sides
        moved = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes_cxcywh) + shift).clamp(0, 1))
        return torch.cat([moved[:, :2], moved[:, 2:].clamp(min=MIN_SIDE)], dim=1)

    def _background_boxes(self, boxes_cxcywh: Tensor) -> Tensor:
        """Move the boxes [T, 4] to random positions; returns those that hardly overlap any of the given ones."""
        if not self.training or not self.background:
            return boxes_cxcywh[:0]
        sides = boxes_cxcywh[:, 2:]
        centres = sides / 2 + torch.rand_like(sides) * (1 - sides).clamp(min=0)
        drawn = torch.cat([centres, sides], dim=1)
        overlap = pairwise_iou(cxcywh_to_xyxy(drawn), cxcywh_to_xyxy(boxes_cxcywh))
        return drawn[(overlap < MAX_BACKGROUND_IOU).all(dim=1)]

    def _embed(self, c3: FeatureMap, c4: FeatureMap, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooling, positions = self.detector.pooling, self.detector.prompted_positions()
        return pooling.exact(c3, boxes, positions), pooling.fast(pooling.prepare(c4), boxes, positions)


def _object_mask(objects: int, others: int) -> Tensor:
    return torch.arange(objects + others) < objects


def build_names_task(detector: Detector, names: Sequence[str], counts: Tensor, stage: NamesStage) -> NamesTask:
    """Build the task for these classes. It starts from the detector's learned offsets, if it has any.

    Args:
        detector: on the device to train on. Its learned text is removed, since the task holds it.
        names: of the classes.
        counts: [C] number of boxes of each class, for `class_loss_weights`.
        stage: settings of the task.

    Raises:
        TrainingError: the detector has a learned context.
    """
    learned, encoder = detector.learned_text, detector.vocabulary_encoder
    if isinstance(learned, LearnedContext):
        raise TrainingError("names cannot be taught to a model with a learned context; start from one without")
    offsets = offsets_for(names, learned=learned, width=detector.image_tower.embed_dim).to(detector.device)
    detector.learn_text(None)
    return NamesTask(
        detector=detector,
        vocabulary=encoder.encode(names),
        others=encoder.encode(names_without(EVERYDAY_NAMES, names)).embeddings,
        offsets=offsets,
        loss_weights=class_loss_weights(counts),
        box_noise=stage.box_noise,
        background=stage.background,
    ).to(detector.device)


def offsets_for(names: Sequence[str], *, learned: LearnedOffsets | None, width: int) -> LearnedOffsets:
    """A copy of `learned` with additional zero offsets for those of `names` that it lacks; `width` is D."""
    old = learned if learned is not None else LearnedOffsets(width=width, rank=0)
    added = names_without(names, old.names)
    new = LearnedOffsets(width=width, rank=old.down.shape[0], names=(*old.names, *added))
    with torch.no_grad():
        for target, source in ((new.shift, old.shift), (new.down, old.down), (new.up, old.up)):
            target.copy_(source)
        new.own[: len(old.own)] = old.own
    return new
