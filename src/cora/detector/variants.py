"""Detectors that differ from CORA in one step, for the comparisons of the paper's ablation table.

`SomeVariant.of(detector)` shares the detector's modules, so training one trains both. A model file stores the name of
the variant (`DetectorConfig.variant`), so that `cora.load` can rebuild it. `cora.training.variants` trains variants.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.boxes import clip_to_image, cxcywh_to_xyxy, pairwise_iou, scale_to_pixels
from cora.detector.cora import Detector
from cora.detector.former_names import former_names
from cora.detector.outputs import DetectorOutput, PreMatched, Seen
from cora.detector.postprocess import combine_scores
from cora.localizer import LocalizerOutput, Memory, pre_match
from cora.regions import Prepared, RegionPrompt, Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.towers import ClipTower


def _constructor_arguments(detector: Detector) -> dict[str, Any]:
    """Arguments with which `Detector` builds the same detector again, without the precision."""
    names = inspect.signature(Detector).parameters.keys() - {"precision"}
    return {name: getattr(detector, name) for name in names}


class DetectorVariant(Detector):
    """Base class of the variants.

    Attributes:
        variant: name of the variant in model files.
    """

    variant: ClassVar[str]

    @classmethod
    def of(cls, detector: Detector, **own: Any) -> Self:
        """Make a variant that shares all modules with `detector`; `own` are arguments that only the variant has."""
        parts = _constructor_arguments(detector) | {"config": replace(detector.config, variant=cls.variant)}
        return cls(**own, **parts).train(detector.training)


class ConditionalDetector(DetectorVariant):
    """Conditional matching (OV-DETR, Zang et al., 2022), instead of pre-matching.

    The decoder runs once per class, with all anchors, so its cost grows with the number of classes. A box has a score
    only for the class that it was decoded for.
    """

    variant = "conditional"

    @former_names(least_score="score_threshold")
    def detect(self, seen: Seen, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> DetectorOutput:
        """As `Detector.detect`; a box's scores for classes that it was not decoded for are 0."""
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
            Boxes [B, K, 4], objectness logits [B, K] and classes [B, K] of the K = `max_scored_boxes` best of all
            C * N boxes by objectness.
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


#: Initial scale, that of CLIP's training, and initial bias, which gives a probability of 0.01.
START_SCALE, START_BIAS = 1 / 0.07, -math.log(99)


class EndToEndHead(nn.Module):
    """Class logits: scale * cosine(W query, class embedding) + bias, with learned W, scale and bias.

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
        """Logits [..., C] of queries [..., dim] for class embeddings [C, D]."""
        cosine = F.normalize(self.projection(hidden), dim=-1) @ class_embeddings.to(hidden.dtype).T
        return self.log_scale.exp() * cosine + self.bias


class EndToEndDetector(DetectorVariant):
    """End-to-end classification, as in DETR: a head on the decoder's queries gives class logits.

    It replaces both objectness and region classifier, so no region is pooled exactly.

    Args:
        parts: arguments of `Detector`; the head is freshly initialised.
    """

    variant = "end-to-end"

    def __init__(self, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]  # passed on as they are
        sizes = self.config.localizer
        self.head = EndToEndHead(dim=sizes.dim, embed_dim=sizes.embed_dim).to(self.device)

    @former_names(least_score="score_threshold")
    def detect(self, seen: Seen, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> DetectorOutput:
        """As `Detector.detect`; `objectness` is the logit of the best class."""
        matched = self.pre_match(seen.prepared, seen.anchors_cxcywh, vocabulary)
        decoded = self.decode(seen.memory, matched)
        logits = self.class_logits(decoded, vocabulary.embeddings)[-1]
        scores = logits.sigmoid()
        return DetectorOutput(decoded.boxes_cxcywh[-1], logits.amax(dim=-1), scores, scores)

    def class_logits(self, decoded: LocalizerOutput, class_embeddings: Tensor) -> Tensor:
        """Logits [L, B, N, C] of every layer's queries for classes [C, D]."""
        logits: Tensor = self.head(decoded.hidden.float(), class_embeddings)
        return logits


def any_object(width: int) -> Tensor:
    """The unit embedding [1, width] that every query gets instead of a class embedding.

    Any constant would do, since the class projection turns it into a learned query content.
    """
    return torch.full((1, width), width**-0.5)


class RegionProposalDetector(DetectorVariant):
    """The paper's class-agnostic baseline: the localizer works as a region proposal network.

    Every query has the same content, so boxes and objectness do not depend on the vocabulary. Only the region
    classifier uses class names.
    """

    variant = "region-proposals"

    def pre_match(self, c4: FeatureMap | Prepared, anchors_cxcywh: Tensor, vocabulary: Vocabulary) -> PreMatched:
        """Give every anchor [B, N, 4] the same query content, from `any_object`; `c4` and `vocabulary` are not used."""
        classes = torch.zeros(anchors_cxcywh.shape[:2], dtype=torch.int64, device=anchors_cxcywh.device)
        return PreMatched(anchors_cxcywh, classes, any_object(self.image_tower.embed_dim).to(anchors_cxcywh))


class TopKDetector(DetectorVariant):
    """Pre-matching with k classes per anchor: those nearest to its region, with one query for each.

    The decoder has k times as many queries, however large the vocabulary is.
    """

    variant = "top-2"
    #: k; if the vocabulary has fewer classes, all of them.
    top_k = 2

    def pre_match(self, c4: FeatureMap | Prepared, anchors_cxcywh: Tensor, vocabulary: Vocabulary) -> PreMatched:
        """Match every anchor [B, N, 4] with k classes: N * k queries, grouped by anchor, best class first."""
        top_k = min(self.top_k, len(vocabulary))
        match = partial(pre_match, top_k=top_k, logit_scale=self.config.tower.logit_scale)
        with torch.no_grad():
            classes = match(self.embed_fast(c4, anchors_cxcywh), vocabulary.embeddings, vocabulary.weights)
        return PreMatched(anchors_cxcywh.repeat_interleave(top_k, dim=1), classes, vocabulary.embeddings)


#: Most crops that are encoded at once; bounds the memory.
CHUNK = 32


@dataclass(frozen=True)
class ImageMap(FeatureMap):
    """A feature map together with its images.

    Attributes:
        images: the batch that the map was computed from.
    """

    images: ImageBatch


class CropDetector(DetectorVariant):
    """Classifies final boxes by crops, without region prompt, as R-CNN did; the rest is as in CORA.

    Every box is cut out of the preprocessed image, stretched to a square of 32 * `pool_size` pixels and encoded as a
    whole image, which is what CLIP was trained on. But a crop has lost its surroundings, and running the tower once per
    box costs a few hundred times as much as running it once per image.
    """

    variant = "crops"

    def encode(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """As `Detector.encode`; C3 is an `ImageMap`."""
        c3, c4 = super().encode(batch)
        return ImageMap(c3.features, c3.mask, batch), c4

    def embed_exact(self, c3: FeatureMap, boxes_cxcywh: Tensor) -> Tensor:
        """Unit embeddings [B, N, D] of the crops of boxes [B, N, 4].

        Raises:
            ValueError: the map has no images, as it does not come from this detector's `encode` (but from a cache).
        """
        if not isinstance(c3, ImageMap):
            raise ValueError("crops: expected the map that CropDetector.encode gave, got one without its images")
        side = 32 * self.image_tower.pool_size
        embeddings = []
        for index, (boxes, size) in enumerate(zip(boxes_cxcywh, c3.images.sizes, strict=True)):
            corners = clip_to_image(scale_to_pixels(boxes.float(), size), size)
            image = c3.images.pixels[index : index + 1]
            for part in corners.split(CHUNK):
                # RoIAlign averages all pixels of a cell, so shrinking a crop causes no aliasing.
                crops = roi_align(image, [part.to(image.dtype)], (side, side), aligned=True)
                embeddings.append(self._embed_images(crops))
        width = self.image_tower.embed_dim
        joined = torch.cat(embeddings) if embeddings else c3.features.new_zeros(0, width)
        return joined.view(*boxes_cxcywh.shape[:2], width)

    def _embed_images(self, pixels: Tensor) -> Tensor:
        """Unit embeddings [N, D] of whole images [N, 3, side, side]."""
        tower = self.image_tower
        if isinstance(tower, ClipTower):
            return tower.encode_image(pixels)
        c3, _ = tower.maps(pixels, pixels.new_zeros(pixels.shape[0], *pixels.shape[-2:], dtype=torch.bool))
        whole_image = pixels.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(len(pixels), 1, 4)
        return self.pooling.exact(c3, whole_image, tower.positions)

    @former_names(least_score="score_threshold", projected="prepared")
    def classify_best(
        self,
        c3: FeatureMap,
        prepared: Prepared,
        boxes_cxcywh: Tensor,
        objectness: Tensor,
        vocabulary: Vocabulary,
        score_threshold: float = 0.0,
    ) -> Tensor:
        """Class probabilities [B, K, C] of boxes [B, K, 4], all by their crops; fast pooling is not used."""
        return self.classify(c3, boxes_cxcywh, vocabulary)


def classes_of_boxes(anchors_cxcywh: Tensor, targets: Sequence[Targets], otherwise: Tensor) -> Tensor:
    """Oracle pre-matching: every anchor gets the class of the ground-truth box that it overlaps most.

    Args:
        anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
        targets: ground truth of each image.
        otherwise: [B, N] int64 classes of anchors that overlap no ground-truth box.

    Returns:
        [B, N] int64 indices into the vocabulary.
    """
    rows = []
    for anchors, target, classes in zip(anchors_cxcywh, targets, otherwise, strict=True):
        if len(target):
            overlap = pairwise_iou(cxcywh_to_xyxy(anchors.float()), cxcywh_to_xyxy(target.boxes_cxcywh.float()))
            best = overlap.max(dim=1)
            classes = torch.where(best.values > 0, target.classes[best.indices], classes)
        rows.append(classes)
    return torch.stack(rows)


def without_prompt(detector: Detector) -> Detector:
    """A detector that shares all modules with the given one, except for a zero region prompt and no fast alignment.

    So neither pre-matching nor relabelling nor final scores use a prompt.
    """
    offset = detector.prompt.offset
    prompt = RegionPrompt(cells=offset.shape[0], channels=offset.shape[1]).to(offset)
    parts = _constructor_arguments(detector) | {"prompt": prompt.requires_grad_(False)}
    unprompted = Detector(**parts).train(detector.training)
    unprompted.align_fast_pooling(None)  # it was fitted to the prompt
    return unprompted


_CLASSES: dict[str, type[DetectorVariant]] = {
    variant.variant: variant
    for variant in (CropDetector, RegionProposalDetector, ConditionalDetector, EndToEndDetector, TopKDetector)
}


def detector_class(variant: str) -> type[Detector]:
    """The class for `DetectorConfig.variant`; `Detector` for ""."""
    return _CLASSES[variant] if variant else Detector
