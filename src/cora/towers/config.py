"""The numbers from which a pair of towers can be rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TemplateSet = Literal["imagenet", "plain"]
#: Greatest `pool_size` that a model can be changed to: of a larger grid, few regions would fill the cells.
LARGEST_POOL_SIZE = 32


@dataclass(frozen=True)
class TowerConfig:
    """Shape of an image tower and its text tower; the defaults are CLIP's RN50.

    Attributes:
        layers: blocks of the four stages, a ResNet's layer1..layer4.
        width: channels of the stem. C3 of a ResNet has 16 times, C4 32 times as many; of a ConvNeXt 4 and 8 times.
        image_size: side of the square image the tower was trained on, pixels.
        embed_dim: width D of the common space.
        text_width, text_heads, text_layers: size of the text transformer.
        context_length: tokens of a text, start and end token included.
        vocab_size: size of the byte-pair vocabulary; smaller than CLIP's 49408 keeps its first merges only.
        quick_gelu: activation of the text transformer, True for OpenAI's weights.
        logit_scale: factor on the cosine before the softmax, 100 for CLIP.
        background: cosine that the background has in that softmax, 0 for CLIP.
        templates: sentences around a class name: a set by name or one's own, see `cora.regions.templates`.
        pool_size: S, side of the grid that a region is pooled to; 0 stands for image_size / 32.
        backbone: name of a timm backbone that takes the place of the CLIP ResNet; "" for the ResNet, whose sizes
            (`layers`, `width`, `image_size`) count for nothing otherwise.
        taps: for a timm backbone, the stages after which its maps are read.
        labels: classes of the backbone's own classifier.
        text_space_hidden: hidden width of the backbone's way into the text space.
        detector: small detector beside the backbone.
        detector_looks: times that it looks at an image: 1, or 2 for once more at half the size, where objects that
            fill the image have the size that it knows best.
        box_stages: stages of a timm backbone, one after the other, that exist a second time with weights that learned
            from boxes; the localizer reads what comes of them. Not beside a detector.
        fine_bins: side of the grid that a region is pooled to from the map of stride 16 as well, whose cells share in
            the region's embedding; 0 for none. Not beside a detector.
        fine_hidden: hidden width of their way into the text space.
        family: of the image tower, OpenAI's ResNets or open_clip's ConvNeXts.
        projection: of a ConvNeXt into the common space: linear, or an MLP with one hidden layer.
        norm_eps: of a ConvNeXt's norms.
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
        """Channels of C3; of a timm backbone they follow from its taps instead."""
        return self.width * (4 if self.family == "convnext" else 16)

    @property
    def pool_heads(self) -> int:
        """Heads of the attention pool: 64 channels each."""
        return max(self.width * 32 // 64, 1)
