"""End-to-end head: queries say themselves which class they found, in place of objectness and region classifier."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.detector.cora import Detector
from cora.detector.outputs import DetectorOutput, Seen
from cora.detector.variants.parts import parts_of
from cora.localizer import LocalizerOutput
from cora.regions import Vocabulary

#: Where the learned numbers start: the temperature as CLIP's did, the bias at a probability of 0.01.
START_SCALE, START_BIAS = 1 / 0.07, -math.log(99)


class EndToEndHead(nn.Module):
    """scale * cos(W query, class embedding) + bias, with learned W, scale and bias.

    Args:
        dim: width of the queries.
        embed_dim: width D of the class embeddings.
    """

    def __init__(self, *, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(self, hidden: Tensor, class_embeddings: Tensor) -> Tensor:
        """Queries [..., dim] and classes [C, D] to logits [..., C]."""
        cosine = F.normalize(self.projection(hidden), dim=-1) @ class_embeddings.to(hidden.dtype).T
        return self.log_scale.exp() * cosine + self.bias


class EndToEndDetector(Detector):
    """CORA whose boxes are scored by the queries; no region is pooled exactly.

    Args:
        head: turns queries into class logits.
        parts: of any detector.
    """

    def __init__(self, *, head: EndToEndHead, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]  # passed on as they are
        self.head = head

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """A detector that shares all modules with the given one and has a fresh head."""
        config = detector.config.localizer
        head = EndToEndHead(dim=config.dim, embed_dim=config.embed_dim).to(detector.device)
        return cls(head=head, **parts_of(detector)).train(detector.training)

    def detect(self, seen: Seen, vocabulary: Vocabulary, *, least_score: float = 0.0) -> DetectorOutput:
        """Score all boxes of a batch for every class; `objectness` is the best class's logit."""
        matched = self.pre_match(seen.projected, seen.anchors_cxcywh, vocabulary)
        decoded = self.decode(seen.memory, matched)
        logits = self.class_logits(decoded, vocabulary.embeddings)[-1]
        scores = logits.sigmoid()
        return DetectorOutput(decoded.boxes_cxcywh[-1], logits.amax(dim=-1), scores, scores)

    def class_logits(self, decoded: LocalizerOutput, class_embeddings: Tensor) -> Tensor:
        """Logits [L, B, N, C] of every layer's queries for classes [C, D]."""
        logits: Tensor = self.head(decoded.hidden.float(), class_embeddings)
        return logits
