"""A CLIP of open_clip on a ConvNeXt, at toy size and with random weights."""

from __future__ import annotations

import timm.models
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.models import convnext

from cora.towers import TowerConfig


@timm.models.register_model
def convnext_toy(pretrained: bool = False, **kwargs: object) -> convnext.ConvNeXt:
    """A ConvNeXt of timm at toy size, so that open_clip can build a CLIP on it by name."""
    sizes = {"depths": (1, 1, 2, 3), "dims": (8, 16, 32, 64)}
    return convnext._create_convnext("convnext_tiny", pretrained=pretrained, **sizes, **kwargs)  # type: ignore[no-any-return]


def convnext_config(projection: str = "linear") -> TowerConfig:
    """Sizes of the same in this package."""
    return TowerConfig(
        layers=(1, 1, 2, 3),
        width=8,
        image_size=96,
        embed_dim=24,
        text_width=64,
        text_heads=1,
        text_layers=1,
        quick_gelu=False,
        family="convnext",
        projection=projection,  # type: ignore[arg-type]
    )


def open_clip_model(projection: str = "linear", seed: int = 1) -> CLIP:
    """open_clip's own model of these sizes."""
    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=24,
        vision_cfg=CLIPVisionCfg(
            timm_model_name="convnext_toy", timm_pool="", timm_proj=projection, timm_drop_path=0.1, image_size=96
        ),
        text_cfg=CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=1),
    )
    for name, parameter in model.named_parameters():  # the initialisation leaves the blocks almost without effect
        if name != "logit_scale":
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
