"""Training tasks of the variants: subclasses of `LocalizerTask` that override one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cora.detector import Detector
from cora.detector.variants import EndToEndDetector, TopKDetector, any_object, classes_of_boxes
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
    """Conditional matching (OV-DETR): decodes an image once for each of its classes and for a few absent classes.

    The targets of a pass are the boxes of its class. Class dropout and class sampling are not used, since the absent
    classes have the same effect.
    """

    #: Number of absent classes per image.
    absent = 2

    def copies(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> list[Copy]:
        """One copy, whose batch dimension runs over all pairs of an image and a class to look for in it."""
        pairs: list[tuple[int, int]] = []
        pair_targets: list[Targets] = []
        for image, one in enumerate(targets):
            drawn = sample_classes(one.classes, len(self.class_embeddings), self._class_count(one.classes))
            pairs += [(image, index) for index in drawn.tolist()]
            pair_targets += [filter_classes(one, index) for index in drawn.split(1)]
        image_index, classes = torch.tensor(pairs, device=memory.tokens.device).reshape(-1, 2).unbind(1)
        anchors = self.anchors(memory)[image_index]
        return [
            Copy(
                memory=memory.of(image_index),
                anchors_cxcywh=anchors,
                classes=classes[:, None].expand(-1, anchors.shape[1]),
                known=classes.unique(),
                targets=tuple(pair_targets),
            )
        ]

    def _class_count(self, present: Tensor) -> int:
        # At least one, so that an image without boxes is decoded, too.
        return max(1, len(present.unique()) + self.absent)


@dataclass(frozen=True)
class ClassifiedOutput(LocalizerOutput):
    """Output of a localizer with an end-to-end head.

    Attributes:
        class_logits: [L, B, N, K] logits of the K classes that the copy of the batch is given. `objectness` holds the
            logit of the query's pre-matched class.
    """

    class_logits: Tensor


class EndToEndCriterion(Criterion):
    """`Criterion` with a focal loss over queries and classes; the targets' classes index the K classes of the copy."""

    def query_logits(self, output: LocalizerOutput, image: int, targets: Targets) -> Tensor:
        """Logits [L, N, T] of the boxes' classes."""
        return _classified(output).class_logits[:, image][..., targets.classes]

    def query_loss(self, output: LocalizerOutput, layer: int, targets: Sequence[Targets], matches: Matches) -> Tensor:
        """Sum over all queries and classes; a matched query is positive for its box's class and negative for others."""
        logits = _classified(output).class_logits[layer]
        is_object = torch.zeros_like(logits, dtype=torch.bool)
        is_object[matches.image, matches.query, matches.of(targets).classes] = True
        return sigmoid_focal_loss(logits, is_object).sum()


class EndToEndTask(LocalizerTask):
    """Trains the localizer with an end-to-end classification head. The objectness head is frozen and not used.

    Args:
        detector: has the end-to-end head.
        criterion: for class logits.
        parts: other arguments of `LocalizerTask`.

    Raises:
        ValueError: the detector has no such head.
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
        positions = self._positions(copy)[classes].expand(logits.shape[:-1])
        return ClassifiedOutput(
            boxes_cxcywh=output.boxes_cxcywh,
            objectness=logits.gather(-1, positions[..., None])[..., 0],
            hidden=output.hidden,
            references=output.references,
            class_logits=logits,
        )

    def matching(
        self, output: LocalizerOutput, copy: Copy
    ) -> tuple[LocalizerOutput, Sequence[Targets], Sequence[Tensor]]:
        """Arguments of the criterion; as usual, but the targets' classes index the K classes of the copy."""
        targets = [repeat(one, self.config.target_repeats) for one in copy.targets]
        allowed, positions = allowed_pairs(copy.classes, targets, self.similar), self._positions(copy)
        indexed = [Targets(boxes_cxcywh=one.boxes_cxcywh, classes=positions[one.classes]) for one in targets]
        return output, indexed, allowed

    def _positions(self, copy: Copy) -> Tensor:
        """Index [C] of every class among the K classes of the copy; 0 for the others, which no query or box has."""
        positions = torch.zeros(len(self.class_embeddings), dtype=torch.int64, device=copy.known.device)
        return positions.index_copy(0, copy.known, torch.arange(len(copy.known), device=copy.known.device))


def _classified(output: LocalizerOutput) -> ClassifiedOutput:
    if not isinstance(output, ClassifiedOutput):
        raise ValueError(f"end-to-end: expected class logits, got {type(output).__name__} without; use EndToEndTask")
    return output


class RegionProposalTask(LocalizerTask):
    """Trains a class-agnostic localizer: CORA with the single class "object".

    Class dropout, class sampling and relaxed matching have no effect with one class.

    Args:
        vocabulary: the base classes; only the width of its embeddings is used.
        parts: other arguments of `LocalizerTask`.
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
    """Every anchor has k queries, for the k classes nearest to its region."""

    #: k; if a copy is given fewer classes, some occur several times.
    top_k = TopKDetector.top_k

    def anchors(self, memory: Memory) -> Tensor:
        """Anchors [B, N * k, 4], each k times in a row."""
        return super().anchors(memory).repeat_interleave(self.top_k, dim=1)

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Classes [B, N * k]; the k classes of an anchor are in a row, the nearest first."""
        given = min(self.top_k, len(known))
        ranked = pre_match(regions[:, :: self.top_k], self.class_embeddings[known], top_k=given)
        ranks = torch.arange(self.top_k, device=known.device) % given
        return known[ranked.unflatten(1, (-1, given))[..., ranks].flatten(1)]


class TrueClassTask(LocalizerTask):
    """Pre-matches an anchor with the class of the ground-truth box that it overlaps most; others as usual."""

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Class [B, N] of every anchor; always one of `known`, since `targets` has boxes of these classes only."""
        usual = super().pre_match(regions, anchors_cxcywh, known, targets)
        return classes_of_boxes(anchors_cxcywh, targets, usual)
