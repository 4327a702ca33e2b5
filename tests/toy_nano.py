"""A small model of the kind of nano: a timm backbone, a way into a text space, NanoDet beside it; random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cora.detector import Detector, DetectorConfig, PostprocessConfig
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.towers import TimmTower, TowerConfig
from cora.towers.build import build_towers
from cora.towers.timm_tower import PIXEL_MEAN, PIXEL_STD

NAMES = ("cat", "dog", "house")


def nano_config(
    *,
    detector: bool = True,
    looks: int = 1,
    box_stages: tuple[int, ...] = (),
    fine_bins: int = 0,
    **postprocess: object,
) -> DetectorConfig:
    """Sizes of the toy; without the detector the localizer reads the backbone's own maps, or those of box stages."""
    tower = TowerConfig(
        embed_dim=32,
        text_width=32,
        text_heads=1,
        text_layers=1,
        context_length=16,
        vocab_size=1000,
        templates="plain",
        logit_scale=20.0,
        background=0.05,
        pool_size=3,
        backbone="tf_efficientnet_lite0",
        labels=20,
        text_space_hidden=16,
        detector="nanodet" if detector else "none",
        detector_looks=looks,
        box_stages=box_stages,
        fine_bins=fine_bins,
        fine_hidden=8,
    )
    strides = (8, 16, 32, 64, 32, 64, 128)[: 1 + 3 * looks]
    levels = tuple((stride, 96) for stride in strides) if detector else ((8, 40), (16, 112), (32, 320))
    channels = sum(width * max(32 // stride, 1) ** 2 for stride, width in levels)
    channels += 320 if detector or box_stages else 0
    localizer = LocalizerConfig(
        c3_channels=channels,
        embed_dim=32,
        dim=16,
        heads=2,
        ff=24,
        enc_layers=2 - looks,
        dec_layers=2,
        num_queries=20,
        anchors="proposed",
        class_hidden=16,
        dropout=0.0,
        levels=levels,
    )
    settings = {"max_scored_boxes": 0, "exact_boxes": 0, "min_score": 1e-4, "nms_iou": 0.65, "score_threshold": 0.01}
    return DetectorConfig(
        tower=tower,
        localizer=localizer,
        preprocess=PreprocessConfig(
            short_side=128, long_side=160, mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3, multiple=32, whole=True
        ),
        postprocess=PostprocessConfig(**(settings | postprocess)),  # type: ignore[arg-type]
    )


def draw_tower(tower: TimmTower) -> None:
    """Random weights under which neighbouring cells differ and every part matters."""
    with torch.no_grad():
        for module in tower.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None  # noqa: PT018
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        tower.text_space.contract.weight.normal_(0, 0.3)
        tower.text_space.label_embeddings.copy_(torch.nn.functional.normalize(torch.randn(20, tower.embed_dim), dim=-1))
        if tower.fine is not None:
            tower.fine.contract.weight.normal_(0, 0.3)
        if tower.detector is not None:
            tower.detector_embeddings.copy_(torch.nn.functional.normalize(torch.randn(80, tower.embed_dim), dim=-1))


def toy_tower(
    *, detector: bool = True, looks: int = 1, box_stages: tuple[int, ...] = (), fine_bins: int = 0, seed: int = 0
) -> TimmTower:
    """The toy's image tower."""
    torch.manual_seed(seed)
    tower, _ = build_towers(
        nano_config(detector=detector, looks=looks, box_stages=box_stages, fine_bins=fine_bins).tower
    )
    assert isinstance(tower, TimmTower)
    draw_tower(tower)
    return tower


def toy_nano(cache_dir: Path, config: DetectorConfig | None = None, *, seed: int = 0) -> Detector:
    """The toy with a localizer that moves boxes and a prompt that is not zero."""
    torch.manual_seed(seed)
    detector = Detector.build(config or nano_config(), cache_dir=cache_dir)
    assert isinstance(detector.image_tower, TimmTower)
    draw_tower(detector.image_tower)
    with torch.no_grad():
        detector.prompt.offset.normal_(0, 0.1)
        for name, value in detector.named_parameters():
            heads = ("box_heads", "localizer.objectness_head", "reach_heads", "objectness_heads", "refinement.head")
            if any(part in name for part in heads):
                value.normal_(0, 0.2)  # zero in a fresh localizer: all boxes would be anchors
    return detector.eval()


def write_boxed_photos(folder: Path) -> Path:
    """Six images with a box each of two colours, below `images`, with `boxes.json` and `split.json`."""
    (folder / "images").mkdir(parents=True)
    colours = {"red square": (200, 30, 30), "blue square": (30, 40, 200)}
    annotations = []
    for number in range(6):
        photo = Image.new("RGB", (120, 90) if number % 2 else (90, 120), (128, 128, 128))
        for label, colour in enumerate(colours.values()):
            x, y, side = 5 + 40 * label, 10 + 3 * number, 25 + 4 * label
            photo.paste(colour, (x, y, x + side, y + side))
            box = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": [x, y, side, side]}
            annotations.append(box)
        photo.save(folder / "images" / f"{number}.png")
    images = [
        {"id": n, "file_name": f"{n}.png", "width": 120 if n % 2 else 90, "height": 90 if n % 2 else 120}
        for n in range(6)
    ]
    categories = [{"id": place, "name": name} for place, name in enumerate(colours, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    (folder / "split.json").write_text(json.dumps({"base": ["red square"], "novel": ["blue square"]}))
    return folder


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
