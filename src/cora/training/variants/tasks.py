"""The tasks of the ablation table's rows, each CORA's with one step of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cora.detector import Detector
from cora.detector.variants import EndToEndDetector, any_object, classes_of_boxes
from cora.localizer import LocalizerOutput, Memory, pre_match
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.allowed_pairs import allowed_pairs
from cora.training.class_sampling import sample_classes
from cora.training.criterion import Criterion, Matches
from cora.training.frozen_maps import TaskBatch
from cora.training.localizer_task import (
    Copy,
    LocalizerTask,
    filter_classes,
    repeat,
)
from cora.training.losses import sigmoid_focal_loss


class ConditionalTask(LocalizerTask):
    """Conditional matching (OV-DETR): decodes every image once for each of its classes and for a few absent ones.

    Each time only boxes of that class are targets. Class dropout and class sampling are not used: the absent classes
    have the same effect.

    Args:
        absent: classes decoded for each image that it lacks.
        parts: of `LocalizerTask`.
    """

    def __init__(self, *, absent: int = 2, **parts: Any) -> None:
        super().__init__(**parts)
        if absent < 0:
            raise ValueError(f"absent: expected 0 or more, got {absent}")
        self.absent = absent

    def copies(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> list[Copy]:
        """One copy whose "images" are all pairs of an image and a class to look for in it."""
        pairs: list[tuple[int, int]] = []
        wanted: list[Targets] = []
        for image, one in enumerate(targets):
            drawn = sample_classes(one.classes, len(self.class_embeddings), self._drawn(one.classes))
            pairs += [(image, index) for index in drawn.tolist()]
            wanted += [filter_classes(one, index) for index in drawn.split(1)]
        image_index, classes = torch.tensor(pairs, device=memory.tokens.device).reshape(-1, 2).unbind(1)
        anchors = self.anchors(memory)[image_index]
        return [
            Copy(
                memory=memory.of(image_index),
                anchors_cxcywh=anchors,
                classes=classes[:, None].expand(-1, anchors.shape[1]),
                known=classes.unique(),
                targets=tuple(wanted),
            )
        ]

    def _drawn(self, present: Tensor) -> int:
        # At least one, so that an image without boxes teaches too.
        return max(1, len(present.unique()) + self.absent)


@dataclass(frozen=True)
class ClassifiedOutput(LocalizerOutput):
    """Output of a localizer with an end-to-end head.

    Attributes:
        class_logits: [L, B, N, K] of the K classes that a copy of the batch is given. `objectness` is that of the
            class that a query looks for.
    """

    class_logits: Tensor


class EndToEndCriterion(Criterion):
    """The usual losses with a focal loss over queries and classes; targets' classes are places among the K."""

    def query_logits(self, output: LocalizerOutput, image: int, targets: Targets) -> Tensor:
        """Logits [L, N, T] of the boxes' classes."""
        return _classified(output).class_logits[:, image][..., targets.classes]

    def query_loss(self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches) -> Tensor:
        """Sum over all queries and classes: a matched query is an object of its box's class and of no other."""
        logits = _classified(output).class_logits[layer]
        is_object = torch.zeros_like(logits, dtype=torch.bool)
        is_object[matches.image, matches.query, matches.of(targets).classes] = True
        return sigmoid_focal_loss(logits, is_object).sum()


class EndToEndTask(LocalizerTask):
    """Trains localizer and end-to-end head, with a focal loss on class logits; objectness is left out and frozen.

    Args:
        detector: with an end-to-end head.
        criterion: for class logits.
        parts: of `LocalizerTask`.

    Raises:
        ValueError: a detector without such a head.
    """

    def __init__(self, *, detector: Detector, criterion: EndToEndCriterion | None = None, **parts: Any) -> None:
        if not isinstance(detector, EndToEndDetector):
            raise ValueError(
                f"end-to-end: expected an EndToEndDetector, got {type(detector).__name__}; use EndToEndDetector.of"
            )
        super().__init__(detector=detector, criterion=criterion or EndToEndCriterion(), **parts)
        self.class_logits = detector.class_logits
        detector.head.requires_grad_(True)
        detector.localizer.objectness_head.requires_grad_(False)

    def decode(
        self, copy: Copy, anchors_cxcywh: Tensor, classes: Tensor, blocked_queries: Tensor | None = None
    ) -> ClassifiedOutput:
        """Decode queries and classify them among the classes that the copy is given."""
        output = super().decode(copy, anchors_cxcywh, classes, blocked_queries)
        logits = self.class_logits(output, self.class_embeddings[copy.known])
        places = self._places(copy)[classes].expand(logits.shape[:-1])
        return ClassifiedOutput(
            boxes_cxcywh=output.boxes_cxcywh,
            objectness=logits.gather(-1, places[..., None])[..., 0],
            hidden=output.hidden,
            references=output.references,
            class_logits=logits,
        )

    def matching(
        self, output: LocalizerOutput, copy: Copy
    ) -> tuple[LocalizerOutput, Sequence[Targets], Sequence[Tensor]]:
        """Queries match boxes of their pre-matched class as usual; classes are places among those of the copy."""
        wanted = [repeat(one, self.config.target_repeats) for one in copy.targets]
        allowed, places = allowed_pairs(copy.classes, wanted, self.similar), self._places(copy)
        placed = [Targets(boxes_cxcywh=one.boxes_cxcywh, classes=places[one.classes]) for one in wanted]
        return output, placed, allowed

    def _places(self, copy: Copy) -> Tensor:
        """[C] place of every class among those of the copy; 0 for the others, which no query or box has."""
        places = torch.zeros(len(self.class_embeddings), dtype=torch.int64, device=copy.known.device)
        return places.index_copy(0, copy.known, torch.arange(len(copy.known), device=copy.known.device))


def _classified(output: LocalizerOutput) -> ClassifiedOutput:
    if not isinstance(output, ClassifiedOutput):
        raise ValueError(f"end-to-end: expected class logits, got {type(output).__name__} without; use EndToEndTask")
    return output


class RegionProposalTask(LocalizerTask):
    """Trains a localizer that finds objects of any class: CORA with a vocabulary of one word.

    Class dropout, class sampling and relaxed matching have no effect with one class.

    Args:
        vocabulary: of the base classes; only its width is used.
        parts: of `LocalizerTask`.
    """

    def __init__(self, *, vocabulary: Vocabulary, **parts: Any) -> None:
        embedding = any_object(vocabulary.embeddings.shape[1]).to(vocabulary.embeddings)
        super().__init__(vocabulary=Vocabulary(("object",), embedding), **parts)

    def forward(self, batch: TaskBatch) -> dict[str, torch.Tensor]:
        """Losses of a batch; its classes are ignored."""
        *features, targets = batch
        objects = tuple(
            Targets(boxes_cxcywh=one.boxes_cxcywh, classes=torch.zeros_like(one.classes)) for one in targets
        )
        return super().forward((*features, objects))


class TopKTask(LocalizerTask):
    """Every anchor makes k queries, for the k classes that its region looks most like.

    Args:
        top_k: classes an anchor; where fewer are given, some are looked for twice.
        parts: of `LocalizerTask`.
    """

    def __init__(self, *, top_k: int = 2, **parts: Any) -> None:
        super().__init__(**parts)
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {top_k}")
        self.top_k = top_k

    def anchors(self, memory: Memory) -> Tensor:
        """Anchor boxes [B, N * k, 4], each k times."""
        return super().anchors(memory).repeat_interleave(self.top_k, dim=1)

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Classes [B, N * k], those of an anchor one after the other, best first."""
        given = min(self.top_k, len(known))
        ranked = pre_match(regions[:, :: self.top_k], self.class_embeddings[known], top_k=given)
        turns = torch.arange(self.top_k, device=known.device) % given
        return known[ranked.unflatten(1, (-1, given))[..., turns].flatten(1)]


class TrueClassTask(LocalizerTask):
    """CORA's training with an oracle at pre-matching; anchors over no box are pre-matched as usual."""

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Class [B, N] of every anchor; boxes of classes that the copy is not given are not among `targets`."""
        usual = super().pre_match(regions, anchors_cxcywh, known, targets)
        return classes_of_boxes(anchors_cxcywh, targets, usual)
