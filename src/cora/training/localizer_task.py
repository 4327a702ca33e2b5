"""Training of the localizer: pre-match anchors, decode, match within classes (CORA, sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cora.detector import Detector
from cora.localizer import LocalizerOutput, Memory, PyramidMemory, pre_match
from cora.localizer.encoder import Encoder
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.allowed_pairs import allowed_pairs, similar_classes
from cora.training.class_sampling import complementary_groups, first_process_draw, sample_classes
from cora.training.criterion import Criterion
from cora.training.denoising import DenoisingConfig, denoising_sum, make_queries
from cora.training.frozen_maps import TaskBatch, frozen_maps
from cora.training.proposal_loss import proposal_losses
from cora.training.recompute import recomputed


@dataclass(frozen=True, kw_only=True)
class LocalizerTaskConfig:
    """How the localizer is trained; the defaults are the published training's on COCO.

    Attributes:
        class_dropout: probability, a step, of training on two copies of the batch: every class is known to one of
            them, to either with probability 1/2.
        classes_per_step: tell only so many classes apart in a step, those present first, others at random (LVIS:
            100); None for all.
        relaxed_cosine: a query may match a box of another class if the cosine of their embeddings is above it
            (LVIS: 0.7); None: of the same class only.
        denoising: noised ground-truth boxes as extra queries; None for none, as published.
        proposals: what anchors are proposed by learns, too; if not, it stays as it is. Models with learned anchors have
            none.
        target_repeats: queries that may match one box; 1 is the published one-to-one matching. More speed up
            small trainings, and inference suppresses duplicates anyway.
        mixed_precision: run the localizer in bfloat16; losses stay in float32.
        activation_checkpointing: recompute the layers of encoder and decoder in the backward pass instead of
            keeping what is inside them: the same gradients in less memory, with one more forward pass.
    """

    class_dropout: float = 0.2
    classes_per_step: int | None = None
    relaxed_cosine: float | None = None
    denoising: DenoisingConfig | None = None
    proposals: bool = True
    target_repeats: int = 1
    mixed_precision: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.class_dropout <= 1:
            raise ValueError(f"class_dropout: expected 0..1, got {self.class_dropout}")
        if self.classes_per_step is not None and self.classes_per_step < 1:
            raise ValueError(f"classes_per_step: expected at least 1 or None for all, got {self.classes_per_step}")
        if self.relaxed_cosine is not None and not -1 <= self.relaxed_cosine <= 1:
            raise ValueError(f"relaxed_cosine: expected -1..1 or None, got {self.relaxed_cosine}")
        if self.target_repeats < 1:
            raise ValueError(f"target_repeats: expected at least 1, got {self.target_repeats}")


@dataclass(frozen=True)
class Copy:
    """One copy of a batch: the inputs of its queries and their targets.

    Attributes:
        memory: encoded maps of B images.
        anchors_cxcywh: [B, N, 4], 0..1.
        classes: [B, N] int64 class that every query looks for.
        known: [K] int64 the classes that the copy is given.
        targets: boxes of these classes, of each image.
    """

    memory: Memory
    anchors_cxcywh: Tensor
    classes: Tensor
    known: Tensor
    targets: tuple[Targets, ...]


class NoisedSum(NamedTuple):
    """Loss of a copy's denoising queries before it is divided, and the number of positive ones."""

    loss: Tensor
    positives: Tensor


class LocalizerTask(nn.Module):
    """Losses of the localizer on a batch; towers and prompt stay frozen.

    The steps `anchors`, `pre_match`, `copies` and `decode` are public, so that the comparisons of
    `cora.training.variants` can replace one of them.

    Args:
        detector: whose localizer learns.
        vocabulary: the base classes, which target indices point into.
        criterion: matching and losses.
        config: class dropout, denoising and the like.
        class_groups: group of every class; queries may match boxes of their class's group.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        criterion: Criterion | None = None,
        config: LocalizerTaskConfig | None = None,
        class_groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        detector.requires_grad_(False)
        detector.localizer.requires_grad_(True)
        self.detector = detector
        self.criterion = criterion or Criterion()
        self.config = config or LocalizerTaskConfig()
        if not self.config.proposals:
            for part in detector.localizer.proposing:
                part.requires_grad_(False)
        similar = similar_classes(vocabulary.embeddings, cosine=self.config.relaxed_cosine, groups=class_groups)
        self.register_buffer("class_embeddings", vocabulary.embeddings.clone(), persistent=False)
        self.register_buffer("similar", similar, persistent=False)
        self.class_embeddings: Tensor
        self.similar: Tensor

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Losses of a batch of images, or of maps from a feature cache; "loss" is the one to minimise."""
        c3, c4, targets = self._features(batch)
        with self._lean(), self._mixed(c3.features.device):
            memory = self.detector.encode_map(c3)
        losses = self.learn(memory, c4, targets)
        return losses | {"loss": losses["total"]}

    def learn(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> dict[str, Tensor]:
        """Losses of encoded maps; "total" is their weighted sum. The copies of the batch count as one larger batch."""
        # First, with gradients: mixed precision would keep the casts of the anchors' gradient-free pass.
        proposed = self._proposal_losses(memory, targets)
        found = [(copy, *self.decode_all(copy)) for copy in self.copies(memory, c4, targets)]
        if len(found) == 1:
            losses = self.matched_losses(found[0][1], found[0][0])
        else:
            sums = [self.criterion.sums(*self.matching(output, copy)) for copy, output, _ in found]
            losses = self.criterion.normalised(sums)
        if self.config.denoising and self.training:
            noised = [one for _, _, one in found if one is not None]
            total = torch.stack([one.loss for one in noised]).sum() if noised else losses["total"].new_zeros(())
            losses["denoising"] = total / max(1, sum(int(one.positives) for one in noised))
            losses["total"] = losses["total"] + losses["denoising"]
        if proposed:
            losses["total"] = losses["total"] + proposed["proposals"]
        return losses | proposed

    def _proposal_losses(self, memory: Memory, targets: tuple[Targets, ...]) -> dict[str, Tensor]:
        """Losses of the proposals, from the objects of all classes; none where they do not learn or are none."""
        if self.detector.localizer.proposals is None or not self.config.proposals:
            return {}
        with self._mixed(memory.tokens.device):
            proposals = self.detector.localizer.propose(memory)
        return proposal_losses(proposals, targets, aligned=isinstance(memory, PyramidMemory))

    def anchors(self, memory: Memory) -> Tensor:
        """Anchor boxes [B, N, 4] that the queries start from."""
        with self._mixed(memory.tokens.device):
            return self.detector.localizer.anchors(memory)

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Class [B, N] of every anchor: the one of `known` that is most similar to its region [B, N, D]."""
        return known[pre_match(regions, self.class_embeddings[known])]

    def copies(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> list[Copy]:
        """The batch to decode in this step: once, or twice with one group of the classes each."""
        anchors = self.anchors(memory)
        with torch.no_grad():
            regions = self.detector.embed_fast(c4, anchors.detach())
        copies = []
        for known in self._known_classes(targets):
            mine = tuple(filter_classes(one, known) for one in targets)
            copies.append(Copy(memory, anchors, self.pre_match(regions, anchors.detach(), known, mine), known, mine))
        return copies

    def decode_all(self, copy: Copy) -> tuple[LocalizerOutput, NoisedSum | None]:
        """Output of a copy's own queries, and the loss of its denoising queries, if there are any."""
        count = copy.anchors_cxcywh.shape[1]
        noised = make_queries(copy.targets, self.config.denoising) if self.config.denoising and self.training else None
        if noised is None:
            return self.decode(copy, copy.anchors_cxcywh, copy.classes), None
        anchors = torch.cat([copy.anchors_cxcywh, noised.anchors_cxcywh], dim=1)
        classes = torch.cat([copy.classes, noised.classes], dim=1)
        output = self.decode(copy, anchors, classes, noised.attention_mask(count))
        loss = denoising_sum(_part(output, slice(count, None)), noised, self.criterion.weights)
        return _part(output, slice(count)), NoisedSum(loss, noised.positive.sum())

    def decode(
        self, copy: Copy, anchors_cxcywh: Tensor, classes: Tensor, blocked_queries: Tensor | None = None
    ) -> LocalizerOutput:
        """Decode queries [B, M] of a copy, its own and those of denoising; returns float32 in any precision."""
        with self._lean(), self._mixed(anchors_cxcywh.device):
            content = self.detector.localizer.query_content(self.class_embeddings, classes)
            output = self.detector.localizer.decode(copy.memory, anchors_cxcywh, content, blocked_queries)
        return replace(
            output,
            boxes_cxcywh=output.boxes_cxcywh.float(),
            objectness=output.objectness.float(),
            references=output.references.float(),
        )

    def matched_losses(self, output: LocalizerOutput, copy: Copy) -> dict[str, Tensor]:
        """Losses of the only copy's own queries."""
        losses: dict[str, Tensor] = self.criterion(*self.matching(output, copy))
        return losses

    def matching(
        self, output: LocalizerOutput, copy: Copy
    ) -> tuple[LocalizerOutput, Sequence[Targets], Sequence[Tensor]]:
        """Arguments of the criterion for a copy: boxes of its known classes are targets, others are not."""
        wanted = [repeat(one, self.config.target_repeats) for one in copy.targets]
        return output, wanted, allowed_pairs(copy.classes, wanted, self.similar)

    def _features(self, batch: TaskBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
        return frozen_maps(self.detector, batch)

    def _known_classes(self, targets: Sequence[Targets]) -> list[Tensor]:
        """Indices of the classes that each copy of the batch is given."""
        present = torch.cat([one.classes for one in targets])
        drawn = sample_classes(present, len(self.class_embeddings), self.config.classes_per_step)
        if len(drawn) > 1 and self.training:
            # Processes must run the criterion equally often.
            chance = float(first_process_draw(torch.rand(1, device=drawn.device)))
            if chance < self.config.class_dropout:
                # A group of no classes makes no copy: its queries would have nothing to look for.
                groups = complementary_groups(len(drawn), device=drawn.device)
                return [drawn[group] for group in groups if bool(group.any())]
        return [drawn]

    def _mixed(self, device: torch.device) -> AbstractContextManager[object]:
        # Not autocast with enabled=False, which would end that of the training loop.
        return torch.autocast(device.type, torch.bfloat16) if self.config.mixed_precision else nullcontext()

    def _lean(self) -> AbstractContextManager[None]:
        if not self.config.activation_checkpointing:
            return nullcontext()
        localizer = self.detector.localizer
        encoder = localizer.encoder
        return recomputed([*(encoder.layers if isinstance(encoder, Encoder) else [encoder]), *localizer.decoder.layers])


def filter_classes(targets: Targets, known: Tensor) -> Targets:
    """The boxes of the known classes."""
    kept = torch.isin(targets.classes, known)
    return Targets(boxes_cxcywh=targets.boxes_cxcywh[kept], classes=targets.classes[kept])


def _part(output: LocalizerOutput, queries: slice) -> LocalizerOutput:
    """The same output for some of the queries."""
    return replace(output, **{field.name: getattr(output, field.name)[:, :, queries] for field in fields(output)})


def repeat(targets: Targets, times: int) -> Targets:
    """Repeat every box, so that as many queries may match it."""
    return Targets(boxes_cxcywh=targets.boxes_cxcywh.repeat(times, 1), classes=targets.classes.repeat(times))
