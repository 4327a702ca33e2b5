"""Finds the regions of an image that an index keeps: their boxes, and their embeddings by exact pooling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms

from cora.boxes import clip_to_image, scale_to_pixels
from cora.detector import Detector
from cora.detector.postprocess import combine_scores
from cora.predictor import Predictor
from cora.regions.everyday import EVERYDAY_NAMES
from cora.retrieval.manifest import RegionSettings

_LEAST_SIDE_PX = 4.0


@dataclass(frozen=True)
class Regions:
    """Regions of one image, best first.

    Attributes:
        boxes_xyxy_px: [K, 4] float32, corners in pixels of the image.
        scores: [K] float32 in 0..1.
        labels: K class names, or K times None where no classes were given.
        embeddings: [K, D] float32, unit norm.
    """

    boxes_xyxy_px: Tensor
    scores: Tensor
    labels: list[str | None]
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class RegionFinder:
    """Finds the regions of images with one detector and one vocabulary, which is encoded once.

    Without classes, pre-matching uses the everyday names, since the localizer needs a class for each anchor to refine
    its box. Their probabilities then do not count, only objectness does.
    """

    def __init__(self, *, detector: Detector, settings: RegionSettings) -> None:
        self.detector = detector
        self.settings = settings
        self.vocabulary = Predictor(detector).vocabulary(settings.classes or EVERYDAY_NAMES)

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> Regions:
        """The regions of an RGB image."""
        detector, settings = self.detector, self.settings
        c3, c4 = detector.encode(detector.preprocessor([picture]).to(detector.device))
        memory = detector.encode_map(c3)
        decoded = detector.decode(memory, detector.pre_match(c4, detector.anchors(memory), self.vocabulary))
        boxes, objectness = detector.select_top_boxes(decoded)
        embeddings = None
        scores, labels = objectness.sigmoid()[0].float(), None
        if settings.classes is not None:
            embeddings = detector.embed_exact(c3, boxes)
            probabilities = detector.classifier(embeddings, self.vocabulary.all_embeddings)[..., : len(self.vocabulary)]
            power = detector.config.postprocess.objectness_power
            scores, labels = combine_scores(probabilities, objectness, power)[0].float().max(dim=-1)
        kept, corners = self._kept(boxes[0].float(), scores, (picture.height, picture.width))
        # Without classes, only the boxes that are kept need an embedding.
        found = detector.embed_exact(c3, boxes[:, kept])[0] if embeddings is None else embeddings[0, kept]
        names: list[str | None] = [None] * len(kept)
        if labels is not None:
            names = [self.vocabulary.names[row] for row in labels[kept].tolist()]
        return Regions(
            boxes_xyxy_px=corners.cpu(),
            scores=scores[kept].cpu(),
            labels=names,
            embeddings=found.float().cpu(),
        )

    def _kept(self, boxes_cxcywh: Tensor, scores: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The rows of the boxes to keep, best first, and their corners in pixels."""
        corners = clip_to_image(scale_to_pixels(boxes_cxcywh, size_hw), size_hw)
        sides = corners[:, 2:] - corners[:, :2]
        rows = ((scores > self.settings.score) & (sides.min(dim=-1).values >= _LEAST_SIDE_PX)).nonzero()[:, 0]
        rows = rows[nms(corners[rows], scores[rows], self.settings.nms_iou)[: self.settings.max_regions]]
        return rows, corners[rows]
