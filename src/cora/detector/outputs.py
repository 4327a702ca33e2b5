"""Outputs of the detector's steps: plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cora.localizer import Memory
from cora.regions import Prepared
from cora.structures import FeatureMap


@dataclass(frozen=True)
class Seen:
    """What `Detector.see` computes of B images, the same for all class names.

    Attributes:
        c3: feature map for exact pooling.
        prepared: input of fast pooling.
        memory: the localizer's encoding of C3.
        anchors_cxcywh: [B, N, 4] boxes from which the localizer starts, 0..1 of the unpadded image.
    """

    c3: FeatureMap
    prepared: Prepared
    memory: Memory
    anchors_cxcywh: Tensor

    @property
    def projected(self) -> Prepared:
        """The former name of `prepared`."""
        return self.prepared


@dataclass(frozen=True)
class PreMatched:
    """Anchors, each with the class that its query looks for.

    Attributes:
        anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
        classes: [B, N] int64, index into the vocabulary.
        class_embeddings: [C, D] unit embeddings of the vocabulary.
    """

    anchors_cxcywh: Tensor
    classes: Tensor
    class_embeddings: Tensor


@dataclass(frozen=True)
class DetectorOutput:
    """Scored boxes of B images, before suppression.

    Attributes:
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image.
        objectness: [B, K] logits: is there an object of the class that the box's query looked for?
        probabilities: [B, K, C] of the classes, 0..1; the rest up to 1 is background and distractors.
        scores: [B, K, C] class probability * sigmoid(objectness)^alpha, 0..1; alpha is
            `PostprocessConfig.objectness_power`.
    """

    boxes_cxcywh: Tensor
    objectness: Tensor
    probabilities: Tensor
    scores: Tensor
