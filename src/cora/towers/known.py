"""The CLIP models of open_clip whose towers CORA can use: their sizes and default weights."""

from __future__ import annotations

from typing import Any

import open_clip

from cora.errors import ModelError
from cora.towers.config import TowerConfig

OPENAI = "openai"
#: ConvNeXts with published weights -> default tag. Where there are several tags, one trained with strong augmentation:
#: its authors found that it works best at other image sizes.
_CONVNEXT_TAGS = {
    "convnext_base": "laion400m_s13b_b51k",
    "convnext_base_w": "laion2b_s13b_b82k_augreg",
    "convnext_base_w_320": "laion_aesthetic_s13b_b82k_augreg",
    "convnext_large_d": "laion2b_s26b_b102k_augreg",
    "convnext_large_d_320": "laion2b_s29b_b131k_ft_soup",
    "convnext_xxlarge": "laion2b_s34b_b82k_augreg_soup",
}
#: timm's names -> blocks of each stage, channels of the first stage, epsilon of the norms.
_CONVNEXTS: dict[str, tuple[tuple[int, int, int, int], int, float]] = {
    "convnext_base": ((3, 3, 27, 3), 128, 1e-6),
    "convnext_large": ((3, 3, 27, 3), 192, 1e-6),
    "convnext_xxlarge": ((3, 4, 30, 3), 384, 1e-5),
}


def known_towers() -> list[str]:
    """Names that `load_towers` accepts: open_clip's CLIP ResNets, and its ConvNeXts with published weights."""
    names = open_clip.list_models()
    return [name for name in names if name.startswith("RN")] + [name for name in names if name in _CONVNEXT_TAGS]


def default_tag(name: str) -> str:
    """open_clip's tag of the weights that are loaded for this tower by default."""
    return _CONVNEXT_TAGS.get(name, OPENAI)


def tower_config(name: str) -> TowerConfig:
    """The configuration of a named tower.

    Raises:
        ModelError: unknown name; the message lists the known names.
    """
    if name not in known_towers():
        raise ModelError(f"unknown tower {name!r}: expected one of {', '.join(known_towers())}")
    config = open_clip.get_model_config(name)
    text = config["text_cfg"]
    return TowerConfig(
        **_image_sizes(config["vision_cfg"]),
        image_size=config["vision_cfg"]["image_size"],
        embed_dim=config["embed_dim"],
        text_width=text["width"],
        text_heads=text["heads"],
        text_layers=text["layers"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        quick_gelu=config.get("quick_gelu", False),
    )


def _image_sizes(vision: dict[str, Any]) -> dict[str, Any]:
    if "timm_model_name" not in vision:
        return {"layers": tuple(vision["layers"]), "width": vision["width"]}
    layers, width, norm_eps = _CONVNEXTS[vision["timm_model_name"]]
    projection = vision["timm_proj"]
    return {"family": "convnext", "layers": layers, "width": width, "norm_eps": norm_eps, "projection": projection}
