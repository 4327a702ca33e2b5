"""Conditional matching per class (OV-DETR): all anchors look for one class at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cora.detector import Detector
from cora.localizer import Memory
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.class_sampling import sample_classes
from cora.training.criterion import Criterion
from cora.training.localizer_task import Copy, LocalizerTask, LocalizerTaskConfig, filter_classes


class ConditionalTask(LocalizerTask):
    """Decodes every image once for each of its classes and for a few absent ones.

    Each time only boxes of that class are targets. Class dropout and class sampling are not used: the absent classes
    have the same effect.

    Args:
        detector: whose localizer learns.
        vocabulary: the base classes.
        criterion: matching and losses.
        config: denoising and the like.
        absent: classes decoded for each image that it lacks.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: Criterion | None = None,
        config: LocalizerTaskConfig | None = None,
        absent: int = 2,
    ) -> None:
        super().__init__(detector=detector, vocabulary=vocabulary, criterion=criterion, config=config)
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
                memory=_rows(memory, image_index),
                anchors_cxcywh=anchors,
                classes=classes[:, None].expand(-1, anchors.shape[1]),
                known=classes.unique(),
                targets=tuple(wanted),
            )
        ]

    def _drawn(self, present: Tensor) -> int:
        # At least one, so that an image without boxes teaches too.
        return max(1, len(present.unique()) + self.absent)


def _rows(memory: Memory, index: Tensor) -> Memory:
    """The memory of some images, repeats allowed."""
    return replace(
        memory,
        tokens=memory.tokens[index],
        positions=memory.positions[index],
        visible=None if memory.visible is None else memory.visible[index],
        extents_hw=memory.extents_hw[index],
    )
