"""The CLIPs of open_clip that can be image towers of CORA: their sizes, and the weights that are usually meant."""

from __future__ import annotations

from typing import Any

import open_clip

from cora.errors import ModelError
from cora.towers.config import TowerConfig

OPENAI = "openai"
#: ConvNeXts with published weights, and their tag. Of several one with strong augmentation, which its authors find to
#: bear other image sizes best.
_CONVNEXT_TAGS = {
    "convnext_base": "laion400m_s13b_b51k",
    "convnext_base_w": "laion2b_s13b_b82k_augreg",
    "convnext_base_w_320": "laion_aesthetic_s13b_b82k_augreg",
    "convnext_large_d": "laion2b_s26b_b102k_augreg",
    "convnext_large_d_320": "laion2b_s29b_b131k_ft_soup",
    "convnext_xxlarge": "laion2b_s34b_b82k_augreg_soup",
}
#: timm's names -> blocks of the stages, channels of the first, added to variances.
_CONVNEXTS: dict[str, tuple[tuple[int, int, int, int], int, float]] = {
    "convnext_base": ((3, 3, 27, 3), 128, 1e-6),
    "convnext_large": ((3, 3, 27, 3), 192, 1e-6),
    "convnext_xxlarge": ((3, 4, 30, 3), 384, 1e-5),
}


def known_towers() -> list[str]:
    """Names that `load_towers` takes: the CLIP ResNets of open_clip, and its ConvNeXts that have weights."""
    names = open_clip.list_models()
    return [name for name in names if name.startswith("RN")] + [name for name in names if name in _CONVNEXT_TAGS]


def default_tag(name: str) -> str:
    """Tag of open_clip whose weights are meant where nobody names one."""
    return _CONVNEXT_TAGS.get(name, OPENAI)


def tower_config(name: str) -> TowerConfig:
    """Sizes of a named tower.

    Raises:
        ModelError: no tower has that name; the message lists the known.
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
