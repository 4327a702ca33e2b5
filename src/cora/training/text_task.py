"""Learned text on boxes of base classes; everything but the learned part stays frozen.

The loss is the cross-entropy over the base classes of scale * cos(region, class embedding), as in region prompting, but
the class embeddings learn. A second term keeps all embeddings, also those of names without boxes, near the hand-written
ones, so that other names still work (KgCoOp, Yao et
al., 2023): loss = cross-entropy + keep * mean(1 - cos(learned, hand-written)).
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
    """What the three text tasks share, as of `TextTask`."""

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
        kept_names: names without boxes that the second loss holds in place; those among `names` are left out.
        keep: factor of the second loss.
        loss_weights: [C] weight of each class in the cross-entropy, 1 by default.

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
        """Losses of a batch of region embeddings; "loss" is the one to minimise."""
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
        """What was learned, to be written or applied to a detector."""


class ContextTask(TextTask):
    """Learned context vectors before the class name, through the frozen text tower (CoOp, Zhou et al., 2022).

    Args:
        context: text whose words the context starts from; its number of tokens is that of the vectors. None takes
            the words before the name of a detector's only template, "a photo of a" where it has several.
        **parts: what every text task takes, as of `TextTask`.
    """

    def __init__(self, *, context: str | None = None, **parts: Unpack[TextParts]) -> None:
        super().__init__(**parts)
        detector = self.detector
        text = default_context(detector.vocabulary_encoder.templates) if context is None else context
        self.context = LearnedContext.from_text(detector.text_tower, text)

    def class_embeddings(self) -> Tensor:
        """Of [context, name], [C + M, D]."""
        return self.context.encode(self.detector.text_tower, self.names)

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The context."""
        return TextArtefact.of_learned(self.context, self.detector, notes)


class OffsetsTask(TextTask):
    """Class-prototype offsets after the tower: a map for any name, and one offset for each base class.

    Args:
        rank: of the map; 0 leaves a shift that all names share.
        own: let every base class have an offset of its own, too.
        own_dropout: share of those offsets that a step goes without, so that the map learns what it can.
        **parts: what every text task takes, as of `TextTask`.
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
        """Hand-written embeddings, moved: [C + M, D]."""
        kept = None
        if self.training and self.own_dropout:
            kept = (torch.rand(len(self.names), device=self.handwritten.device) >= self.own_dropout).float()
        moved: Tensor = self.offsets(self.handwritten, self.names, kept)
        return moved

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The offsets."""
        return TextArtefact.of_learned(self.offsets, self.detector, notes)


class TextTowerTask(TextTask):
    """Fine-tune a copy of the text tower's last blocks; token and position tables stay, for all names share them.

    Args:
        layers: blocks that learn, counted from the last; the last norm and the projection learn with them.
        templates_per_step: sentences of the template set that a step takes, drawn at random.
        **parts: what every text task takes, as of `TextTask`.
    """

    def __init__(self, *, layers: int = 1, templates_per_step: int = 4, **parts: Unpack[TextParts]) -> None:
        super().__init__(**parts)
        detector = self.detector
        blocks = detector.text_tower.net.transformer.resblocks
        if not 0 <= layers <= len(blocks) or templates_per_step < 1:
            raise ValueError(
                f"layers, templates_per_step: expected 0..{len(blocks)} and at least 1, "
                f"got {layers} and {templates_per_step}"
            )
        self.templates = clean_templates(detector.vocabulary_encoder.templates)
        self.templates_per_step = templates_per_step
        self.tuned = copy.deepcopy(detector.text_tower)
        net = self.tuned.net
        net.text_projection.requires_grad_(True)
        for part in (net.ln_final, *net.transformer.resblocks[len(blocks) - layers :]):
            part.requires_grad_(True)

    def class_embeddings(self) -> Tensor:
        """Mean over templates by the tuned tower: [C + M, D]; over some of them in training."""
        sentences = self.templates
        if self.training and len(sentences) > self.templates_per_step:
            drawn = torch.randperm(len(sentences))[: self.templates_per_step].tolist()
            sentences = tuple(sentences[place] for place in drawn)
        texts = [sentence.replace(PLACEHOLDER, name) for name in self.names for sentence in sentences]
        embeddings = self.tuned.encode(texts).unflatten(0, (len(self.names), len(sentences)))
        return F.normalize(embeddings.mean(dim=1), dim=-1)

    def artefact(self, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """The weights that differ from the frozen tower's, in half precision."""
        return TextArtefact.of_tower(self.tuned, self.detector, notes)


def default_context(templates: str | Sequence[str]) -> str:
    """Default text that a context starts from: the words of the detector's only template, else "a photo of a"."""
    sentences = clean_templates(templates)
    words = sentences[0].removesuffix(PLACEHOLDER).strip()
    return words if len(sentences) == 1 and words and PLACEHOLDER not in words else "a photo of a"
