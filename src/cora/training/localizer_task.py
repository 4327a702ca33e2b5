"""Training the localizer: pre-match anchors, decode, match within classes, learn (CORA, sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from cora.detector import Detector
from cora.localizer import LocalizerOutput, pre_match
from cora.localizer.encoder import Memory
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.training.class_dropout import complementary_groups
from cora.training.criterion import Criterion
from cora.training.denoising import DenoisingConfig, DenoisingQueries, make_queries
from cora.training.losses import giou_loss, l1_loss, sigmoid_focal_loss

#: Photos, or the maps (C3, C4) that a frozen tower gave for them, with what they hold.
LocalizerBatch = tuple[ImageBatch, tuple[Targets, ...]] | tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]


@dataclass(frozen=True, kw_only=True)
class LocalizerTaskConfig:
    """How the localizer is trained; the defaults are the published training's.

    Attributes:
        class_dropout: probability, a step, of training on two copies of the batch that know one half of the
            classes each.
        denoising: noised ground-truth boxes as extra queries; None for none, as published.
        target_repeats: queries that may match one box; 1 is the published one-to-one matching. More speed up
            small trainings, and inference suppresses duplicates anyway.
        mixed_precision: run the localizer in bfloat16; losses stay in float32.
    """

    class_dropout: float = 0.2
    denoising: DenoisingConfig | None = None
    target_repeats: int = 1
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.class_dropout <= 1:
            raise ValueError(f"class_dropout: expected 0..1, got {self.class_dropout}")
        if self.target_repeats < 1:
            raise ValueError(f"target_repeats: expected at least 1, got {self.target_repeats}")


class LocalizerTask(nn.Module):
    """Losses of the localizer on a batch; towers and prompt stay frozen.

    Args:
        detector: whose localizer learns.
        vocabulary: the base classes, which target indices point into.
        criterion: matching and losses.
        config: class dropout, denoising and the like.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: Criterion | None = None,
        config: LocalizerTaskConfig | None = None,
    ) -> None:
        super().__init__()
        detector.requires_grad_(False)
        detector.localizer.requires_grad_(True)
        self.detector = detector
        self.criterion = criterion or Criterion()
        self.config = config or LocalizerTaskConfig()
        self.register_buffer("class_embeddings", vocabulary.embeddings.clone(), persistent=False)
        self.class_embeddings: Tensor

    def forward(self, batch: LocalizerBatch) -> dict[str, Tensor]:
        """Losses of a batch of photos, or of maps from a feature cache; "loss" is the one to minimise."""
        c3, c4, targets = self._features(batch)
        anchors = self.detector.localizer.anchors(len(targets))
        with torch.no_grad():
            regions = self.detector.embed_fast(c4, anchors.detach())
        with torch.autocast(c3.features.device.type, torch.bfloat16, enabled=self.config.mixed_precision):
            memory = self.detector.localizer.encode(c3)
        copies = [self._copy(memory, anchors, regions, known, targets) for known in self._known_classes()]
        losses = {name: torch.stack([copy[name] for copy in copies]).mean() for name in copies[0]}
        return losses | {"loss": losses["total"]}

    def _features(self, batch: LocalizerBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
        if isinstance(batch[0], FeatureMap):
            return batch
        with torch.no_grad():
            c3, c4 = self.detector.encode(batch[0])
        return c3, c4, batch[-1]

    def _known_classes(self) -> list[Tensor]:
        """Indices of the classes that each copy of the batch is given; all of them without class dropout."""
        count, device = len(self.class_embeddings), self.class_embeddings.device
        if count > 1 and self.training and _shared_draw(device) < self.config.class_dropout:
            return [group.nonzero()[:, 0] for group in complementary_groups(count, device=device)]
        return [torch.arange(count, device=device)]

    def _copy(
        self, memory: Memory, anchors: Tensor, regions: Tensor, known: Tensor, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Losses when only the `known` classes are given: boxes of the others must not be found."""
        localizer, device_type = self.detector.localizer, anchors.device.type
        classes = known[pre_match(regions, self.class_embeddings[known])]
        targets = [_only(one, known) for one in targets]
        noised = make_queries(targets, self.config.denoising) if self.config.denoising and self.training else None
        with torch.autocast(device_type, torch.bfloat16, enabled=self.config.mixed_precision):
            output = localizer.decode(
                memory,
                anchors if noised is None else torch.cat([anchors, noised.anchors_cxcywh], dim=1),
                localizer.query_content(
                    self.class_embeddings,
                    classes if noised is None else torch.cat([classes, noised.classes], dim=1),
                ),
                None if noised is None else noised.attention_mask(anchors.shape[1]),
            )
        repeated = [_repeat(one, self.config.target_repeats) for one in targets]
        allowed = [row[:, None] == one.classes for row, one in zip(classes, repeated, strict=True)]
        losses: dict[str, Tensor] = self.criterion(_queries(output, slice(anchors.shape[1])), repeated, allowed)
        if noised is not None:
            found = _queries(output, slice(anchors.shape[1], None))
            losses["denoising"] = denoising_loss(found, noised, self.criterion)
            losses["total"] = losses["total"] + losses["denoising"]
        return losses


def _shared_draw(device: torch.device) -> float:
    """A random number in 0..1, the same in all processes: they must run the criterion equally often."""
    draw = torch.rand(1, device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(draw, src=0)
    return float(draw)


def denoising_loss(output: LocalizerOutput, noised: DenoisingQueries, criterion: Criterion) -> Tensor:
    """Weighted losses of all layers on denoising queries, whose boxes are known without matching.

    Positives must return to their boxes and say "object", negatives "no object"; divided by the positives.
    """
    weights, valid, positive = criterion.weights, noised.positive | noised.negative, noised.positive
    wanted = noised.boxes_cxcywh[positive]
    total = output.objectness.new_zeros((), dtype=torch.float32)
    for objectness, boxes in zip(output.objectness, output.boxes_cxcywh, strict=True):
        focal = sigmoid_focal_loss(objectness[valid], positive[valid]).sum()
        found = boxes[positive]
        total = total + weights.objectness * focal
        total = total + weights.l1 * l1_loss(found, wanted) + weights.giou * giou_loss(found, wanted)
    return total / positive.sum().clamp(min=1)


def _only(targets: Targets, known: Tensor) -> Targets:
    kept = torch.isin(targets.classes, known)
    return Targets(boxes_cxcywh=targets.boxes_cxcywh[kept], classes=targets.classes[kept])


def _repeat(targets: Targets, times: int) -> Targets:
    return Targets(boxes_cxcywh=targets.boxes_cxcywh.repeat(times, 1), classes=targets.classes.repeat(times))


def _queries(output: LocalizerOutput, part: slice) -> LocalizerOutput:
    """The same output for some of the queries."""
    return LocalizerOutput(
        boxes_cxcywh=output.boxes_cxcywh[:, :, part].float(),
        objectness=output.objectness[:, :, part].float(),
        hidden=output.hidden[:, :, part],
        references=output.references[:, :, part].float(),
    )
