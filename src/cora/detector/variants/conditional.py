"""Conditional matching (OV-DETR, Zang et al., 2022): all anchors look for one class, and again for the next.

Nothing is pre-matched: the decoder runs once for every class of the vocabulary, and its cost grows with their number.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from cora.detector.cora import Detector
from cora.detector.outputs import DetectorOutput, PreMatched, Seen
from cora.detector.postprocess import combine_scores
from cora.detector.variants.parts import parts_of
from cora.localizer import Memory
from cora.regions import Vocabulary


class ConditionalDetector(Detector):
    """Decodes once for every class; a box counts for the class it was decoded for only."""

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """A detector that shares all modules with the given one."""
        return cls(**parts_of(detector)).train(detector.training)

    def detect(self, seen: Seen, vocabulary: Vocabulary, *, least_score: float = 0.0) -> DetectorOutput:
        """Score the boxes of a batch, each for its class; `scores` of other classes are 0."""
        boxes, objectness, classes = self.decode_each(seen.memory, seen.anchors_cxcywh, vocabulary)
        probabilities = self.classify(seen.c3, boxes, vocabulary)
        scores = combine_scores(probabilities, objectness, self.config.postprocess.objectness_power)
        own = torch.arange(len(vocabulary), device=classes.device) == classes[..., None]
        return DetectorOutput(boxes, objectness, probabilities, scores * own)

    def decode_each(
        self, memory: Memory, anchors_cxcywh: Tensor, vocabulary: Vocabulary
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all anchors [B, N, 4] for each of the C classes.

        Returns:
            Boxes [B, K, 4], objectness [B, K] and classes [B, K] of the best `max_scored_boxes` of all C * N.
        """
        boxes, objectness = [], []
        for index in range(len(vocabulary)):
            classes = torch.full(anchors_cxcywh.shape[:2], index, device=anchors_cxcywh.device)
            decoded = self.decode(memory, PreMatched(anchors_cxcywh, classes, vocabulary.embeddings))
            boxes.append(decoded.boxes_cxcywh[-1])
            objectness.append(decoded.objectness[-1])
        logits = torch.cat(objectness, dim=1)
        best = logits.topk(min(self.config.postprocess.max_scored_boxes or logits.shape[1], logits.shape[1]), dim=1)
        chosen = torch.cat(boxes, dim=1).gather(1, best.indices[..., None].expand(-1, -1, 4))
        return chosen, best.values, best.indices // anchors_cxcywh.shape[1]
