"""Trains class embeddings (learned text) on regions of base classes; the detector stays frozen.

As in region prompting, the loss is the cross-entropy of scale * cos(region, class embedding) over the base classes. A
second loss keeps all embeddings, also those of names without boxes, near those of the hand-written templates, so that
other names still work (KgCoOp, Yao et al., 2023): loss = cross-entropy + keep * mean(1 - cos(learned, hand-written)).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Required, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.detector import Detector
from cora.detector.text_artefact import TextArtefact
from cora.errors import TrainingError
from cora.names import name_key, names_without
from cora.regions import LearnedContext, LearnedOffsets, clean_templates
from cora.regions.templates import PLACEHOLDER
from cora.training.region_embeddings import RegionBatch


class TextParts(TypedDict, total=False):
    """Keyword arguments of `TextTask`, for its subclasses."""

    detector: Required[Detector]
    names: Required[Sequence[str]]
    kept_names: Sequence[str]
    keep: float
    loss_weights: Tensor | None


class TextTask(nn.Module, ABC):
    """Base class of the three text tasks: names, the two losses, the frozen detector.

    Args:
        detector: its text tower, templates and classifier are used; all of it is frozen.
        names: base classes, in the order of the labels.
        kept_names: names without boxes for the second loss; those among `names` are left out.
        keep: weight of the second loss.
        loss_weights: [C] weight of each class in the cross-entropy; None: 1.

    Raises:
        TrainingError: the detector has learned text already.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        names: Sequence[str],
        kept_names: Sequence[str] = (),
        keep: float = 1.0,
        loss_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if detector.learned_text is not None:
            raise TrainingError(
                "expected a detector without learned text, got one with "
                f"{detector.learned_text.config.kind}; start from the model it was made of"
            )
        if keep < 0:
            raise ValueError(f"keep: expected 0 or more, got {keep}")
        if loss_weights is not None and loss_weights.shape != (len(names),):
            raise ValueError(f"loss_weights: expected shape [{len(names)}], got {list(loss_weights.shape)}")
        detector.requires_grad_(False)
        self.detector = detector
        self.classes, self.keep = len(names), keep
        others = {name_key(name): name for name in names_without(kept_names, names)}
        handwritten = detector.vocabulary_encoder.encode([*names, *others.values()])
        self.names = handwritten.names
        self.register_buffer("handwritten", handwritten.embeddings.clone(), persistent=False)
        self.register_buffer("loss_weights", loss_weights, persistent=False)
        self.handwritten: Tensor
        self.loss_weights: Tensor | None

    def forward(self, batch: RegionBatch) -> dict[str, Tensor]:
        """Losses and accuracy (0..1) of a batch of region embeddings; minimise "loss"."""
        embeddings = self.class_embeddings()
        logits = self.detector.classifier.logits(batch.regions, embeddings[: self.classes])
        entropy = F.cross_entropy(logits, batch.labels, weight=self.loss_weights)
        drift = (1 - (embeddings * self.handwritten).sum(dim=-1)).mean()
        accuracy = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return {"loss": entropy + self.keep * drift, "entropy": entropy, "drift": drift, "accuracy": accuracy}

    @abstractmethod
    def class_embeddings(self) -> Tensor:
        """Learned unit embeddings [C + M, D] of the base classes, then of the kept names."""

    @abstractmethod
    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The learned text, to be saved or applied to a detector; `notes` are stored with it."""


class ContextTask(TextTask):
    """Learned context vectors before the class name, through the frozen text tower (CoOp, Zhou et al., 2022).

    Args:
        context: initial text; its tokens become the context vectors. None for `default_context` of the detector.
        **parts: arguments of `TextTask`.
    """

    def __init__(self, *, context: str | None = None, **parts: Unpack[TextParts]) -> None:
        super().__init__(**parts)
        detector = self.detector
        text = default_context(detector.vocabulary_encoder.templates) if context is None else context
        self.context = LearnedContext.from_text(detector.text_tower, text)

    def class_embeddings(self) -> Tensor:
        """Embeddings [C + M, D] of "context name"."""
        return self.context.encode(self.detector.text_tower, self.names)

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The context."""
        return TextArtefact.of_learned(self.context, self.detector, notes)


class OffsetsTask(TextTask):
    """Learned offsets of text embeddings (`LearnedOffsets`): a low-rank map for all names, an offset per base class.

    Args:
        rank: rank of the map; with 0 only a common shift is learned.
        own: also learn an offset for each base class.
        own_dropout: 0..1, share of these offsets that a step leaves out, so that the map learns, too.
        **parts: arguments of `TextTask`.
    """

    def __init__(
        self, *, rank: int = 16, own: bool = True, own_dropout: float = 0.5, **parts: Unpack[TextParts]
    ) -> None:
        super().__init__(**parts)
        if not 0 <= own_dropout < 1:
            raise ValueError(f"own_dropout: expected 0..1 without 1, got {own_dropout}")
        self.own_dropout = own_dropout
        width = self.handwritten.shape[1]
        offsets = LearnedOffsets(width=width, rank=rank, names=self.names[: self.classes] if own else ())
        self.offsets = offsets.to(self.handwritten.device)

    def class_embeddings(self) -> Tensor:
        """Hand-written embeddings plus offsets, [C + M, D]."""
        kept = None
        if self.training and self.own_dropout:
            kept = (torch.rand(len(self.names), device=self.handwritten.device) >= self.own_dropout).float()
        moved: Tensor = self.offsets(self.handwritten, self.names, kept)
        return moved

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The offsets."""
        return TextArtefact.of_learned(self.offsets, self.detector, notes)


class TextTowerTask(TextTask):
    """Fine-tunes the last blocks of a copy of the text tower; token and position embeddings stay frozen.

    Args:
        layers: number of last blocks to train; the final norm and the projection are always trained.
        templates_per_step: number of templates in a step, drawn at random.
        **parts: arguments of `TextTask`.

    Raises:
        TrainingError: the text tower has fewer blocks.
    """

    def __init__(self, *, layers: int = 1, templates_per_step: int = 4, **parts: Unpack[TextParts]) -> None:
        super().__init__(**parts)
        detector = self.detector
        blocks = detector.text_tower.net.transformer.resblocks
        if not 0 <= layers <= len(blocks):
            raise TrainingError(f"layers: expected 0 to {len(blocks)} blocks of the text tower, got {layers}")
        self.templates = clean_templates(detector.vocabulary_encoder.templates)
        self.templates_per_step = templates_per_step
        self.tuned = copy.deepcopy(detector.text_tower)
        net = self.tuned.net
        net.text_projection.requires_grad_(True)
        for part in (net.ln_final, *net.transformer.resblocks[len(blocks) - layers :]):
            part.requires_grad_(True)

    def class_embeddings(self) -> Tensor:
        """Mean embeddings over the templates by the tuned tower, [C + M, D]; in training over a random subset."""
        sentences = self.templates
        if self.training and len(sentences) > self.templates_per_step:
            drawn = torch.randperm(len(sentences))[: self.templates_per_step].tolist()
            sentences = tuple(sentences[index] for index in drawn)
        texts = [sentence.replace(PLACEHOLDER, name) for name in self.names for sentence in sentences]
        embeddings = self.tuned.encode(texts).unflatten(0, (len(self.names), len(sentences)))
        return F.normalize(embeddings.mean(dim=1), dim=-1)

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The weights that differ from the frozen tower's, in half precision."""
        return TextArtefact.of_tower(self.tuned, self.detector, notes)


def default_context(templates: str | Sequence[str]) -> str:
    """Initial text of a context: the words before the name in the detector's only template, else "a photo of a"."""
    sentences = clean_templates(templates)
    words = sentences[0].removesuffix(PLACEHOLDER).strip()
    return words if len(sentences) == 1 and words and PLACEHOLDER not in words else "a photo of a"
