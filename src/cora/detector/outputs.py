"""Outputs of the detector's steps, in the order of the forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cora.localizer import Memory
from cora.regions import Prepared
from cora.structures import FeatureMap


@dataclass(frozen=True)
class Seen:
    """Output of `Detector.see` for B images: all that does not depend on the class names.

    Attributes:
        c3: feature map for exact pooling.
        prepared: input of fast pooling.
        memory: the localizer's encoding of C3.
        anchors_cxcywh: [B, N, 4] boxes that the localizer refines, 0..1 of the unpadded image.
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
    """Output of anchor pre-matching: anchors, each with the class that its query looks for.

    Attributes:
        anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
        classes: [B, N] int64 indices into the vocabulary, 0..C-1.
        class_embeddings: [C, D] unit embeddings of the vocabulary.
    """

    anchors_cxcywh: Tensor
    classes: Tensor
    class_embeddings: Tensor


@dataclass(frozen=True)
class DetectorOutput:
    """Output of `Detector.detect`: the scored boxes of B images, before suppression.

    Attributes:
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image.
        objectness: [B, K] logits: does the box hold an object of the class that its anchor was matched with?
        probabilities: [B, K, C] class probabilities, 0..1. The rest up to 1 is background and distractors.
        scores: [B, K, C] class probability * sigmoid(objectness)^alpha, 0..1; alpha is
            `PostprocessConfig.objectness_power`.
    """

    boxes_cxcywh: Tensor
    objectness: Tensor
    probabilities: Tensor
    scores: Tensor
