"""The configuration from which an image tower and its text tower are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TemplateSet = Literal["imagenet", "plain"]
#: Largest `pool_size` that a model can be changed to; few regions have enough pixels for a larger grid.
LARGEST_POOL_SIZE = 32


@dataclass(frozen=True)
class TowerConfig:
    """Sizes and options of an image tower and its text tower; the defaults are CLIP's RN50.

    There are three kinds of image towers: with a `backbone`, a `TimmTower`; else, by `family`, a `ResNetTower` or a
    `ConvNeXtTower`.

    Attributes:
        layers: blocks of the four stages, for a ResNet layer1 to layer4.
        width: channels of the stem. A ResNet's C3 and C4 have 16 and 32 times as many, a ConvNeXt's 4 and 8 times.
        image_size: side in pixels of the square images that the tower was trained on.
        embed_dim: width D of the embeddings.
        text_width, text_heads, text_layers: width, heads and blocks of the text transformer.
        context_length: most tokens of a text, start and end token included.
        vocab_size: size of the byte-pair vocabulary; if smaller than CLIP's 49408, only CLIP's first merges are kept.
        quick_gelu: whether the text transformer uses QuickGELU, as OpenAI's weights need.
        logit_scale: factor on the cosine before the softmax over classes, 100 for CLIP.
        background: cosine of the background in that softmax, -1..1, 0 for CLIP.
        templates: sentences around a class name: the name of a set, or the sentences; see `cora.regions.templates`.
        pool_size: S, side of the grid that a region is pooled to; 0 stands for image_size / 32.
        backbone: name of a timm backbone for the image tower; "" for a CLIP tower. With a backbone, `layers`, `width`
            and `family` are not used, and `image_size` only gives the default of `pool_size`.
        taps: timm backbone: indices of the stages whose output is read as a feature map (timm: out_indices).
        labels: timm backbone: number of classes of its classifier.
        text_space_hidden: timm backbone: hidden width of the MLP that projects into the text space.
        detector: timm backbone: box detector beside it.
        detector_looks: how often the box detector runs on an image: 1, or 2 to run it at half the size, too, where
            objects that fill the image have the size that it detects best.
        box_stages: timm backbone: consecutive indices of stages that have a copy trained on boxes; the localizer reads
            the output of the copies. Not with a detector.
        fine_bins: timm backbone: side of the grid that a region is pooled to for the fine head, from the map of stride
            16; 0 for no fine head. Not with a detector.
        fine_hidden: hidden width of the fine head.
        family: architecture of a CLIP image tower: OpenAI's ResNets or open_clip's ConvNeXts.
        projection: ConvNeXt: projection to the embedding, linear or an MLP with one hidden layer.
        norm_eps: ConvNeXt: added to the variance in norms.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    image_size: int = 224
    embed_dim: int = 1024
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    context_length: int = 77
    vocab_size: int = 49408
    quick_gelu: bool = True
    logit_scale: float = 100.0
    templates: TemplateSet | tuple[str, ...] = "imagenet"
    pool_size: int = 0
    backbone: str = ""
    taps: tuple[int, ...] = (2, 4, 6)
    labels: int = 1000
    text_space_hidden: int = 512
    detector: Literal["none", "nanodet"] = "none"
    detector_looks: int = 1
    box_stages: tuple[int, ...] = ()
    fine_bins: int = 0
    fine_hidden: int = 192
    background: float = 0.0
    family: Literal["resnet", "convnext"] = "resnet"
    projection: Literal["linear", "mlp"] = "linear"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "taps", tuple(self.taps))
        object.__setattr__(self, "box_stages", tuple(self.box_stages))
        if self.family not in ("resnet", "convnext"):
            raise ValueError(f'family: expected "resnet" or "convnext", got {self.family!r}')
        if self.projection not in ("linear", "mlp"):
            raise ValueError(f'projection: expected "linear" or "mlp", got {self.projection!r}')
        if self.backbone and self.family != "resnet":
            raise ValueError(f"backbone: expected none beside a tower of family {self.family}, got {self.backbone}")
        if self.detector not in ("none", "nanodet"):
            raise ValueError(f'detector: expected "none" or "nanodet", got {self.detector!r}')
        if self.detector != "none" and not self.backbone:
            raise ValueError("detector: expected a timm backbone beside it, got a CLIP tower")
        if self.box_stages:
            self._check_box_stages()
        if self.fine_bins < 0 or (self.fine_bins and (not self.backbone or self.detector != "none")):
            raise ValueError(
                f"fine_bins: expected 0, or 1 and more with a timm backbone and no detector, got {self.fine_bins}"
            )
        if self.detector_looks not in (1, 2):
            raise ValueError(f"detector_looks: expected 1 or 2, got {self.detector_looks}")
        if self.pool_size == 0:
            object.__setattr__(self, "pool_size", self.image_size // 32)
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"layers: expected four positive numbers of blocks, got {self.layers}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width: expected a positive even number, got {self.width}")
        if self.pool_size < 1:
            raise ValueError(f"pool_size: expected at least 1, got {self.pool_size} (image_size {self.image_size})")
        if self.text_width % self.text_heads:
            raise ValueError(f"text_width: expected a multiple of text_heads={self.text_heads}, got {self.text_width}")
        if not -1 <= self.background <= 1:
            raise ValueError(f"background: expected a cosine, -1..1, got {self.background}")
        if self.context_length < 3:
            raise ValueError(f"context_length: expected at least 3 tokens, got {self.context_length}")
        if not 514 <= self.vocab_size <= 49408:
            raise ValueError(f"vocab_size: expected 514..49408, got {self.vocab_size}")

    def _check_box_stages(self) -> None:
        first, last = self.box_stages[0], self.box_stages[-1]
        if self.box_stages != tuple(range(first, last + 1)) or first < 1 or last > max(self.taps):
            raise ValueError(
                f"box_stages: expected stages one after the other, 1 to {max(self.taps)}, got {self.box_stages}"
            )
        if not self.backbone or self.detector != "none":
            raise ValueError("box_stages: expected a timm backbone without a detector beside it, got another tower")

    @property
    def c3_channels(self) -> int:
        """Channels of C3 of a CLIP tower; those of a timm backbone depend on its taps (`TimmTower.c3_channels`)."""
        return self.width * (4 if self.family == "convnext" else 16)

    @property
    def pool_heads(self) -> int:
        """Heads of the attention pool: 64 channels each."""
        return max(self.width * 32 // 64, 1)
