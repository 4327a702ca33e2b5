"""Teaching names: learn where the names of one's own classes lie among the regions of one's own images.

A class of a small set ("RBC", "rolled-in scale") often means nothing to the text tower, and a prompt, which all
names share, cannot tell such classes apart without moving every other name. An offset of the class's own
embedding can, and leaves all other names as they were: in classification nothing is forgotten by construction.
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

#: A moved box keeps at least this share of the image as side.
MIN_SIDE = 1e-3
#: IoU with an object up to which a box is background.
MOST_OVERLAP = 0.2


class NamesTask(nn.Module):
    """Cross-entropy of regions over the classes and over other things; only the classes' own offsets learn.

    Ground-truth boxes, slightly moved, are pooled in both ways (docs/method.md), exactly, as final boxes are,
    and fast, as anchors are, and each must be nearest to its class.

    Args:
        detector: its towers, prompt and classifier are used as they are.
        vocabulary: the classes that targets point into, embedded without their offsets.
        others: embeddings [M, D] of other things; they are wrong for every box, which keeps the classes from
            being claimed for everything, and the classes from losing to them at test time.
        offsets: with an offset for every class; its other parts stay as they are.
        loss_weights: [C] weight of each class in the loss, 1 by default.
        box_noise: corners move by up to this share of half the box's sides.
        background: weight of a second loss on random boxes that hold no annotated object, as many as there are
            objects: among the classes and the classifier's background they must be background. 0 for none.
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
        """Loss, and accuracy of exact and fast pooling, of a batch of images or of cached maps."""
        c3, c4, targets = frozen_maps(self.detector, batch)
        labels = torch.cat([one.classes for one in targets])
        embeddings = torch.cat([self.offsets(self.class_embeddings, self.names), self.others])
        if not len(labels):
            zero = embeddings.sum() * 0
            return {"loss": zero, "accuracy": zero.detach(), "accuracy_fast": zero.detach()}
        count = len(self.class_embeddings)
        with torch.no_grad():
            objects = [self._moved(one.boxes_cxcywh) for one in targets]
            nothing = [self._elsewhere(one.boxes_cxcywh) for one in targets]
            pooled = self._embed(c3, c4, [torch.cat(pair) for pair in zip(objects, nothing, strict=True)])
        is_object = torch.cat([_both(len(one), len(other)) for one, other in zip(objects, nothing, strict=True)])
        answer: dict[str, Tensor] = {}
        losses = []
        for name, found in zip(("accuracy", "accuracy_fast"), pooled, strict=True):
            logits = self.detector.classifier.logits(found, embeddings)
            inside = logits[is_object]
            outside = F.pad(logits[~is_object][:, :count], (0, 1), value=self.detector.classifier.background_logit)
            losses.append(F.cross_entropy(inside, labels, weight=self.loss_weights))
            if len(outside) and self.background:
                losses[-1] = losses[-1] + self.background * -outside.log_softmax(dim=1)[:, -1].mean()
            answer[name] = (inside.detach().argmax(dim=1) == labels).float().mean()
        return {"loss": torch.stack(losses).mean(), **answer}

    @torch.no_grad()
    def start_from(self, regions: RegionEmbeddings, *, share: float) -> None:
        """Start from prototypes: every class that has a box becomes unit((1 - share) * text + share * unit(mean)).

        Args:
            regions: of the classes, in their order; their mean is the class's prototype.
            share: 0..1, how much the regions count.
        """
        text = self.offsets(self.class_embeddings, self.names)
        sums = torch.zeros_like(text).index_add(0, regions.labels.to(text.device), regions.regions.to(text))
        mixed = F.normalize((1 - share) * text + share * F.normalize(sums, dim=-1), dim=-1)
        has_box = (regions.class_counts() > 0).to(text.device)[:, None]
        self.offsets.lead_to(torch.where(has_box, mixed, text), self.class_embeddings, self.names)

    def _moved(self, boxes_cxcywh: Tensor) -> Tensor:
        if not self.training or not self.box_noise:
            return boxes_cxcywh
        half_sides = boxes_cxcywh[:, 2:].repeat(1, 2) / 2
        shift = (torch.rand_like(boxes_cxcywh) * 2 - 1) * self.box_noise * half_sides
        moved = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes_cxcywh) + shift).clamp(0, 1))
        return torch.cat([moved[:, :2], moved[:, 2:].clamp(min=MIN_SIDE)], dim=1)

    def _elsewhere(self, boxes_cxcywh: Tensor) -> Tensor:
        """Boxes [0..T, 4] of the annotated sizes at random places, those that overlap no annotated one."""
        if not self.training or not self.background:
            return boxes_cxcywh[:0]
        sides = boxes_cxcywh[:, 2:]
        centres = sides / 2 + torch.rand_like(sides) * (1 - sides).clamp(min=0)
        drawn = torch.cat([centres, sides], dim=1)
        overlap = pairwise_iou(cxcywh_to_xyxy(drawn), cxcywh_to_xyxy(boxes_cxcywh))
        return drawn[(overlap < MOST_OVERLAP).all(dim=1)]

    def _embed(self, c3: FeatureMap, c4: FeatureMap, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooling, positions = self.detector.pooling, self.detector.prompted_positions()
        return pooling.exact(c3, boxes, positions), pooling.fast(pooling.prepare(c4), boxes, positions)


def _both(objects: int, others: int) -> Tensor:
    return torch.arange(objects + others) < objects


def build_names_task(detector: Detector, names: Sequence[str], counts: Tensor, stage: NamesStage) -> NamesTask:
    """The task for these classes; the detector loses its learned text, and the task goes on from it.

    Args:
        detector: on the device to train on.
        names: of the classes.
        counts: [C] boxes of each, which their weights in the loss follow.
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
    """Offsets that have one for each of `names`, beside those that were learned before."""
    old = learned if learned is not None else LearnedOffsets(width=width, rank=0)
    added = names_without(names, old.names)
    new = LearnedOffsets(width=width, rank=old.down.shape[0], names=(*old.names, *added))
    with torch.no_grad():
        for mine, theirs in ((new.shift, old.shift), (new.down, old.down), (new.up, old.up)):
            mine.copy_(theirs)
        new.own[: len(old.own)] = old.own
    return new
