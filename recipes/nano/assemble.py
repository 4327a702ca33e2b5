"""Put nano's parts into one detector: the distilled towers with the localizer's encoder and proposals,
which learned beside the image tower, a zero prompt and a fresh decoder.

    python recipes/nano/assemble.py --image runs/nano/tower/last.pt --text runs/nano/text_tower.safetensors \
        --out runs/nano/towers.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from own_names import TEXT_HEADS, read_text_tower
from student import EMBED_DIM, GRID, LAYERS, LOCALIZER, WIDTH

from cora.detector import Detector
from cora.detector.config import DetectorConfig
from cora.detector.postprocess import PostprocessConfig
from cora.images import PreprocessConfig
from cora.towers import TowerConfig

PREPROCESS = PreprocessConfig(short_side=384, long_side=640)
POSTPROCESS = PostprocessConfig(max_scored_boxes=250, distractors="everyday")


def assemble(image: Path, text: Path) -> Detector:
    """Detector with the running average of the student as image tower."""
    average = torch.load(image, weights_only=True)["average"]
    text_net = read_text_tower(text).net
    tower = TowerConfig(
        layers=LAYERS,
        width=WIDTH,
        image_size=GRID * 32,
        embed_dim=EMBED_DIM,
        text_width=text_net.width,
        text_heads=TEXT_HEADS,
        text_layers=len(text_net.transformer.resblocks),
        context_length=text_net.num_pos,
        vocab_size=text_net.vocab_size,
        quick_gelu=True,
        logit_scale=float(average["logit_scale"].exp().clamp(max=50)),
        templates="plain",
        pool_size=GRID,
    )
    config = DetectorConfig(tower=tower, localizer=LOCALIZER, preprocess=PREPROCESS, postprocess=POSTPROCESS)
    detector = Detector.build(config)
    visual = {k.removeprefix("visual."): v for k, v in average.items() if k.startswith("visual.")}
    detector.image_tower.net.load_state_dict(visual)
    localizer = {k.removeprefix("localizer."): v for k, v in average.items() if k.startswith("localizer.")}
    detector.localizer.load_state_dict(localizer)
    detector.text_tower.net.load_state_dict(text_net.state_dict())
    return detector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--image", "--text", "--out"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    made = assemble(arguments.image, arguments.text)
    made.save(arguments.out, dtype=torch.float32)
    total = sum(p.numel() for p in made.parameters())
    print(f"{total / 1e6:.2f} M parameters, {2 * total / 1e6:.1f} MB in half precision")
