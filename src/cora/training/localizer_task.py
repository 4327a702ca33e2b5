"""Trains the localizer: pre-match anchors, decode, match queries within their class (CORA, sections 3.3 and 3.4)."""

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
        class_dropout: probability that a step trains on two copies of the batch. Each class is then given to only one
            of them, chosen at random.
        classes_per_step: number of classes in a step: those present, then others at random (LVIS: 100); None for all.
        relaxed_cosine: a query may match a box of another class if the cosine of the two class embeddings is above it
            (LVIS: 0.7); None: boxes of its own class only.
        denoising: noised ground-truth boxes as extra queries; None for none, as published.
        proposals: train the modules that propose the anchors, too; False freezes them. No effect with learned anchors.
        target_repeats: number of queries that may match one box; 1 is the published one-to-one matching. More speed up
            the training of small datasets; inference suppresses the duplicates.
        mixed_precision: run the localizer in bfloat16; losses stay in float32.
        activation_checkpointing: recompute the activations of encoder and decoder layers in the backward pass instead
            of storing them. It needs less memory and one more forward pass, and gives the same gradients.
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
    """One copy of a batch, with the classes that it is given: inputs of the decoder, and targets.

    Attributes:
        memory: encoded feature maps of the B images.
        anchors_cxcywh: [B, N, 4], 0..1.
        classes: [B, N] int64 pre-matched class of every query.
        known: [K] int64 indices of the classes that the copy is given.
        targets: boxes of these classes in each image.
    """

    memory: Memory
    anchors_cxcywh: Tensor
    classes: Tensor
    known: Tensor
    targets: tuple[Targets, ...]


class NoisedSum(NamedTuple):
    """Summed loss of the denoising queries of a copy, and the number of positives among them, to divide it by."""

    loss: Tensor
    positives: Tensor


class LocalizerTask(nn.Module):
    """Losses of the localizer on a batch; towers and prompt stay frozen.

    The variants of `cora.training.variants` override single steps: `anchors`, `pre_match`, `copies`, `decode` or
    `matching`.

    Args:
        detector: its localizer is trained; the rest is frozen.
        vocabulary: the base classes, in the order of the labels.
        criterion: matching and losses.
        config: class dropout, denoising and other settings.
        class_groups: group of each class; a query may match boxes of all classes of its class's group.
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
        """Losses of a batch of images or of cached feature maps; minimise "loss"."""
        c3, c4, targets = self._features(batch)
        with self._checkpointing(), self._autocast(c3.features.device):
            memory = self.detector.encode_map(c3)
        losses = self.learn(memory, c4, targets)
        return losses | {"loss": losses["total"]}

    def learn(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> dict[str, Tensor]:
        """Losses of encoded feature maps; "total" is their weighted sum. All copies count as one larger batch."""
        # Before `copies`: autocast caches cast weights, and casts of the anchors' gradient-free pass have no gradient.
        proposed = self._proposal_losses(memory, targets)
        decoded = [(copy, *self.decode_all(copy)) for copy in self.copies(memory, c4, targets)]
        if len(decoded) == 1:
            losses = self.matched_losses(decoded[0][1], decoded[0][0])
        else:
            sums = [self.criterion.sums(*self.matching(output, copy)) for copy, output, _ in decoded]
            losses = self.criterion.normalised(sums)
        if self.config.denoising and self.training:
            noised = [one for _, _, one in decoded if one is not None]
            total = torch.stack([one.loss for one in noised]).sum() if noised else losses["total"].new_zeros(())
            losses["denoising"] = total / max(1, sum(int(one.positives) for one in noised))
            losses["total"] = losses["total"] + losses["denoising"]
        if proposed:
            losses["total"] = losses["total"] + proposed["proposals"]
        return losses | proposed

    def _proposal_losses(self, memory: Memory, targets: tuple[Targets, ...]) -> dict[str, Tensor]:
        """Losses of the proposals on boxes of all classes; empty if anchors are learned or the proposals are frozen."""
        if self.detector.localizer.proposals is None or not self.config.proposals:
            return {}
        with self._autocast(memory.tokens.device):
            proposals = self.detector.localizer.propose(memory)
        return proposal_losses(proposals, targets, aligned=isinstance(memory, PyramidMemory))

    def anchors(self, memory: Memory) -> Tensor:
        """Anchors [B, N, 4] cxcywh, 0..1, from which the queries start."""
        with self._autocast(memory.tokens.device):
            return self.detector.localizer.anchors(memory)

    def pre_match(self, regions: Tensor, anchors_cxcywh: Tensor, known: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Class [B, N] of every anchor: the one of `known` whose embedding is nearest to its region's [B, N, D]."""
        return known[pre_match(regions, self.class_embeddings[known])]

    def copies(self, memory: Memory, c4: FeatureMap, targets: tuple[Targets, ...]) -> list[Copy]:
        """The copies of the batch to decode in this step: one, or two with complementary classes (class dropout)."""
        anchors = self.anchors(memory)
        with torch.no_grad():
            regions = self.detector.embed_fast(c4, anchors.detach())
        copies = []
        for known in self._known_classes(targets):
            kept = tuple(filter_classes(one, known) for one in targets)
            copies.append(Copy(memory, anchors, self.pre_match(regions, anchors.detach(), known, kept), known, kept))
        return copies

    def decode_all(self, copy: Copy) -> tuple[LocalizerOutput, NoisedSum | None]:
        """Decode a copy's queries together with denoising queries: output of the former, loss of the latter if any."""
        count = copy.anchors_cxcywh.shape[1]
        noised = make_queries(copy.targets, self.config.denoising) if self.config.denoising and self.training else None
        if noised is None:
            return self.decode(copy, copy.anchors_cxcywh, copy.classes), None
        anchors = torch.cat([copy.anchors_cxcywh, noised.anchors_cxcywh], dim=1)
        classes = torch.cat([copy.classes, noised.classes], dim=1)
        output = self.decode(copy, anchors, classes, noised.attention_mask(count))
        loss = denoising_sum(_select_queries(output, slice(count, None)), noised, self.criterion.weights)
        return _select_queries(output, slice(count)), NoisedSum(loss, noised.positive.sum())

    def decode(
        self, copy: Copy, anchors_cxcywh: Tensor, classes: Tensor, blocked_queries: Tensor | None = None
    ) -> LocalizerOutput:
        """Decode queries: anchors [B, M, 4] and classes [B, M]. Boxes and logits are float32 in any precision."""
        with self._checkpointing(), self._autocast(anchors_cxcywh.device):
            content = self.detector.localizer.query_content(self.class_embeddings, classes)
            output = self.detector.localizer.decode(copy.memory, anchors_cxcywh, content, blocked_queries)
        return replace(
            output,
            boxes_cxcywh=output.boxes_cxcywh.float(),
            objectness=output.objectness.float(),
            references=output.references.float(),
        )

    def matched_losses(self, output: LocalizerOutput, copy: Copy) -> dict[str, Tensor]:
        """Losses of the queries of a single copy, without denoising."""
        losses: dict[str, Tensor] = self.criterion(*self.matching(output, copy))
        return losses

    def matching(
        self, output: LocalizerOutput, copy: Copy
    ) -> tuple[LocalizerOutput, Sequence[Targets], Sequence[Tensor]]:
        """Arguments of the criterion for a copy: output, targets, repeated if configured, and allowed pairs."""
        targets = [repeat(one, self.config.target_repeats) for one in copy.targets]
        return output, targets, allowed_pairs(copy.classes, targets, self.similar)

    def _features(self, batch: TaskBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
        return frozen_maps(self.detector, batch)

    def _known_classes(self, targets: Sequence[Targets]) -> list[Tensor]:
        """Indices of the classes that each copy of the batch is given."""
        present = torch.cat([one.classes for one in targets])
        drawn = sample_classes(present, len(self.class_embeddings), self.config.classes_per_step)
        if len(drawn) > 1 and self.training:
            # All processes need the same number of copies, since the criterion communicates between them.
            chance = float(first_process_draw(torch.rand(1, device=drawn.device)))
            if chance < self.config.class_dropout:
                # An empty group makes no copy, since its queries would have no class.
                groups = complementary_groups(len(drawn), device=drawn.device)
                return [drawn[group] for group in groups if bool(group.any())]
        return [drawn]

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        # autocast(enabled=False) would switch off the training loop's own autocast.
        return torch.autocast(device.type, torch.bfloat16) if self.config.mixed_precision else nullcontext()

    def _checkpointing(self) -> AbstractContextManager[None]:
        if not self.config.activation_checkpointing:
            return nullcontext()
        localizer = self.detector.localizer
        encoder = localizer.encoder
        return recomputed([*(encoder.layers if isinstance(encoder, Encoder) else [encoder]), *localizer.decoder.layers])


def filter_classes(targets: Targets, known: Tensor) -> Targets:
    """The boxes whose class is in `known` [K]."""
    kept = torch.isin(targets.classes, known)
    return Targets(boxes_cxcywh=targets.boxes_cxcywh[kept], classes=targets.classes[kept])


def _select_queries(output: LocalizerOutput, queries: slice) -> LocalizerOutput:
    """The output of some of the queries."""
    return replace(output, **{field.name: getattr(output, field.name)[:, :, queries] for field in fields(output)})


def repeat(targets: Targets, times: int) -> Targets:
    """Repeat every box, so that `times` queries may match it."""
    return Targets(boxes_cxcywh=targets.boxes_cxcywh.repeat(times, 1), classes=targets.classes.repeat(times))
