"""Builds the frozen and the trainable part of a study from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cora.detector import load
from cora.errors import DataError
from cora.images import Preprocessor
from cora.regions import VocabularyEncoder, default_cache_dir
from cora.study.config import ModelPart, TowerPart
from cora.study.model import DetectionHead, ImageEncoder, StudyModel
from cora.towers import resnet_of
from cora.towers.surgery import ResNetSurgery, SurgeryTower
from cora.towers.vit_tower import known_vits, load_vit


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part: an image tower with CLIP Surgery, and what its inputs and class names need.

    Attributes:
        tower: on the CPU.
        vocabulary_encoder: with the text tower of the same CLIP.
        preprocessor: normalises images; the study resizes them itself.
    """

    tower: SurgeryTower
    vocabulary_encoder: VocabularyEncoder
    preprocessor: Preprocessor

    def check(self, image_size: tuple[int, int]) -> None:
        """Raise DataError unless the tower's patches divide the (height, width) in pixels."""
        stride = self.tower.stride
        if any(side % stride for side in image_size):
            raise DataError(
                f"tower.image_size: expected multiples of {stride} pixels, the tower's patches, got {image_size}"
            )


def build_frozen(part: TowerPart) -> FrozenPart:
    """Load the tower that a configuration names.

    Raises:
        ModelError: unknown name, weights that cannot be loaded or do not fit, more layers than the tower has.
        DataError: a checkpoint for a tower that is no ViT of open_clip.
    """
    if part.name in known_vits():
        vit, text_tower = load_vit(
            part.name, Path(part.checkpoint) if part.checkpoint else "openai", layers=part.layers
        )
        encoder = VocabularyEncoder(text_tower=text_tower, templates="imagenet", cache_dir=default_cache_dir())
        frozen = FrozenPart(tower=vit, vocabulary_encoder=encoder, preprocessor=Preprocessor())
    else:
        if part.checkpoint is not None:
            raise DataError(
                f"checkpoint of the tower: expected a ViT of open_clip to load {part.checkpoint} into, got the tower "
                f"{part.name!r}; name one such as ViT-B-32, or give the file of a detector as the tower"
            )
        detector = load(part.name)
        tower = resnet_of(detector.image_tower, "activation maps")
        frozen = FrozenPart(
            tower=ResNetSurgery(tower=tower, layers=part.layers, sharpened=part.sharpened),
            vocabulary_encoder=detector.vocabulary_encoder,
            preprocessor=detector.preprocessor,
        )
    return frozen


def build_model(
    part: ModelPart, *, feature_width: int, seed: int, prior_wh: tuple[float, float] = (0.3, 0.3)
) -> StudyModel:
    """A new trainable part, whose weights depend on the arguments only.

    Args:
        part: its sizes.
        feature_width: channels of the frozen tower's patch features.
        seed: of its weights.
        prior_wh: width and height of the prior box, 0..1 of the image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StudyModel(
            image_encoder=ImageEncoder(channels=part.image_channels, resolution_hw=part.cam_resolution),
            head=DetectionHead(
                image_channels=part.image_channels, feature_width=feature_width, hidden=part.hidden, prior_wh=prior_wh
            ),
        )
