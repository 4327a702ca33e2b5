"""Crop-based classification: every region is cut out of the image and encoded as an image of its own.

What R-CNN did, and what CLIP was trained for; but a crop has lost its surroundings, and a tower run for every region
costs some hundred times a pass over the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torchvision.ops import roi_align

from cora.boxes import clip_to_image, scale_to_pixels
from cora.detector.cora import Detector
from cora.detector.variants.parts import parts_of
from cora.regions import Prepared, Vocabulary
from cora.structures import FeatureMap, ImageBatch
from cora.towers import clip_tower_of

#: Crops encoded at once; bounds the memory.
CHUNK = 32


@dataclass(frozen=True)
class PhotoMap(FeatureMap):
    """A feature map that remembers its images.

    Attributes:
        photos: the batch of images that the map was computed from.
    """

    photos: ImageBatch


class CropDetector(Detector):
    """Scores final boxes by crops without prompt; anchors are pre-matched and refined as in CORA.

    Crops are taken from the image as the detector sees it, resized, and stretched to the square that the tower was
    trained on.
    """

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """A crop-based detector that shares all modules with the given one.

        Raises:
            ModelError: its tower does not embed whole images.
        """
        clip_tower_of(detector.image_tower, "crops")
        return cls(**parts_of(detector)).train(detector.training)

    def encode(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """Feature maps C3 and C4; C3 remembers the images."""
        c3, c4 = super().encode(batch)
        return PhotoMap(c3.features, c3.mask, batch), c4

    def embed_exact(self, c3: FeatureMap, boxes_cxcywh: Tensor) -> Tensor:
        """Unit embeddings [B, N, D] of the crops of boxes [B, N, 4].

        Raises:
            ValueError: the map is not from this detector's `encode`; maps of a feature cache have no images.
        """
        if not isinstance(c3, PhotoMap):
            raise ValueError("crops: expected the map that CropDetector.encode gave, got one without its images")
        tower = clip_tower_of(self.image_tower, "crops")
        side = 32 * tower.pool_size
        embeddings = []
        for index, (boxes, size) in enumerate(zip(boxes_cxcywh, c3.photos.sizes, strict=True)):
            corners = clip_to_image(scale_to_pixels(boxes.float(), size), size)
            photo = c3.photos.pixels[index : index + 1]
            for part in corners.split(CHUNK):
                # RoIAlign averages all pixels of a cell: a crop that shrinks is not aliased.
                crops = roi_align(photo, [part.to(photo.dtype)], (side, side), aligned=True)
                embeddings.append(tower.encode_image(crops))
        width = self.image_tower.embed_dim
        whole = torch.cat(embeddings) if embeddings else c3.features.new_zeros(0, width)
        return whole.view(*boxes_cxcywh.shape[:2], width)

    def classify_best(
        self,
        c3: FeatureMap,
        projected: Prepared,
        boxes_cxcywh: Tensor,
        objectness: Tensor,
        vocabulary: Vocabulary,
        least_score: float = 0.0,
    ) -> Tensor:
        """Class probabilities [B, K, C], every box by its crop: nothing is estimated from the map."""
        return self.classify(c3, boxes_cxcywh, vocabulary)
