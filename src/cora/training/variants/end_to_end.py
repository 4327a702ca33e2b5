"""End-to-end head: a focal loss on class logits of the queries, in place of objectness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.detector import Detector
from cora.detector.variants import EndToEndDetector
from cora.localizer import LocalizerOutput
from cora.regions import Vocabulary
from cora.structures import Targets
from cora.training.allowed_pairs import allowed_pairs
from cora.training.criterion import Criterion, Matches
from cora.training.localizer_task import Copy, LocalizerTask, LocalizerTaskConfig, repeat
from cora.training.losses import sigmoid_focal_loss


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
    """Trains localizer and head; the objectness head is left out and frozen.

    Args:
        detector: with an end-to-end head.
        vocabulary: the base classes.
        criterion: for class logits.
        config: class dropout, denoising and the like.

    Raises:
        ValueError: a detector without such a head.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: EndToEndCriterion | None = None,
        config: LocalizerTaskConfig | None = None,
    ) -> None:
        if not isinstance(detector, EndToEndDetector):
            raise ValueError(
                f"end-to-end: expected an EndToEndDetector, got {type(detector).__name__}; use EndToEndDetector.of"
            )
        super().__init__(
            detector=detector, vocabulary=vocabulary, criterion=criterion or EndToEndCriterion(), config=config
        )
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
