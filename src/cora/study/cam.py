"""Class activation maps by CLIP Surgery, the frozen part of the study (docs/study.md).

Feature surgery subtracts the features that all classes share at a patch, since they make plain CLIP maps noisy. With a
single class, the embedding of an empty prompt takes the place of the shared features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.regions import Vocabulary, VocabularyEncoder
from cora.regions.templates import PLACEHOLDER, clean_templates
from cora.structures import FeatureMap, ImageBatch
from cora.towers import FrozenModule
from cora.towers.surgery import SurgeryTower

#: Temperature of the class token's softmax.
_CLASS_SHARPNESS = 2.0


@dataclass(frozen=True)
class FrozenMaps:
    """Output of the frozen part for B images of one size.

    Attributes:
        cams: [B, C, h, w] in 0..1, one map for every class of the vocabulary.
        features: [B, width, h, w] of the patches.
    """

    cams: Tensor
    features: Tensor


def feature_surgery(tokens: Tensor, texts: Tensor, redundant: Tensor | None = None) -> Tensor:
    """Similarity of tokens and texts without what the texts share.

    S_it = w_t F_i.T_t - mean_t'(w_t' F_i.T_t'), w_t = p_t / mean(p), p = softmax_t(2 F_cls.T_t), with F_cls the first
    token; for a single text, or where `redundant` is given, S_it = F_i.(T_t - redundant).

    Args:
        tokens: [..., N, D] of unit norm, the class token first.
        texts: [C, D] of unit norm.
        redundant: [D] embedding of an empty prompt.

    Returns:
        [..., N, C].

    Raises:
        ValueError: a single text without `redundant`: the difference would be zero everywhere.
    """
    if redundant is not None:
        return tokens @ (texts - redundant).transpose(0, 1)
    if len(texts) < 2:
        raise ValueError(
            "feature surgery: expected two texts or more, or the embedding of an empty prompt, got neither"
        )
    similarity = tokens @ texts.transpose(0, 1)
    share = (_CLASS_SHARPNESS * similarity[..., :1, :]).softmax(dim=-1)
    weighted = share / share.mean(dim=-1, keepdim=True) * similarity
    return weighted - weighted.mean(dim=-1, keepdim=True)


def to_maps(similarity: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Similarity of patches [B, h*w, C] to maps [B, C, h, w], scaled to 0 at a class's lowest patch, 1 at its highest.

    A class with the same similarity everywhere has a map of zeros.
    """
    low, high = similarity.amin(dim=1, keepdim=True), similarity.amax(dim=1, keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (similarity - low) / spread.clamp(min=torch.finfo(low.dtype).tiny), 0.0)
    maps: Tensor = scaled.transpose(1, 2).unflatten(-1, grid_hw)
    return maps


def upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] to another size [B, C, H, W], bilinear."""
    return F.interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)


def empty_prompt(encoder: VocabularyEncoder) -> Tensor:
    """Mean embedding [D] of the encoder's templates around an empty name: the `redundant` of `feature_surgery`."""
    sentences = [sentence.replace(PLACEHOLDER, "") for sentence in clean_templates(encoder.templates)]
    return F.normalize(encoder.text_tower.encode(sentences).mean(dim=0), dim=-1)


class CamTower(FrozenModule):
    """The frozen part of the study: pixels to class activation maps and patch features.

    Args:
        tower: image tower with surgery.
        texts: [C, D] class embeddings of unit norm.
        redundant: [D] embedding of an empty prompt; used if there is a single class.
    """

    def __init__(self, *, tower: SurgeryTower, texts: Tensor, redundant: Tensor) -> None:
        super().__init__()
        assert isinstance(tower, nn.Module)
        self.tower = tower
        self.register_buffer("texts", texts.detach().clone())
        self.register_buffer("redundant", redundant.detach().clone())
        # Not computed with, but part of the state, by which a feature cache recognises its tower.
        self.register_buffer("setting", torch.tensor(tower.setting))
        self.texts: Tensor
        self.redundant: Tensor
        self.freeze()

    @classmethod
    def of_vocabulary(cls, tower: SurgeryTower, encoder: VocabularyEncoder, vocabulary: Vocabulary) -> CamTower:
        """For the classes of a vocabulary."""
        return cls(tower=tower, texts=vocabulary.embeddings, redundant=empty_prompt(encoder).to(vocabulary.embeddings))

    @property
    def classes(self) -> int:
        """C, the number of maps per image."""
        return len(self.texts)

    def forward(self, pixels: Tensor) -> FrozenMaps:
        """Normalised pixels [B, 3, H, W] to maps: similarity of every layer, averaged, then scaled to 0..1."""
        with torch.no_grad():
            found = self.tower(pixels)
            redundant = self.redundant if self.classes == 1 else None
            similarity = feature_surgery(F.normalize(found.tokens, dim=-1), self.texts, redundant).mean(dim=0)
            cams = to_maps(similarity[:, 1:], found.grid_hw)
            return FrozenMaps(cams=cams, features=found.features.transpose(1, 2).unflatten(-1, found.grid_hw))

    def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """Tensors that a feature cache stores for images without padding.

        They are the features with the maps appended, [B, D + C, h, w], and the pixels, [B, 3, H, W].
        """
        maps = self(batch.pixels)
        joined = torch.cat([maps.features, maps.cams], dim=1)
        inside = torch.zeros(len(joined), *joined.shape[-2:], dtype=torch.bool, device=joined.device)
        return FeatureMap(joined, inside), FeatureMap(batch.pixels, batch.mask)

    def split(self, joined: Tensor) -> FrozenMaps:
        """The reverse of `features` for its first map [B, width + C, h, w]."""
        features, cams = joined.split([joined.shape[1] - self.classes, self.classes], dim=1)
        return FrozenMaps(cams=cams, features=features)
