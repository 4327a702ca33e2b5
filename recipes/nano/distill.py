"""Nano's image tower by `cora.training.distill_task`: MobileNetV2 as a teacher that knows regions and no boxes.

    python recipes/nano/distill.py --kit ../shared/kit --text-space runs/nano/text_space.npz \\
        --basic-names runs/nano/basic_names.json --run runs/nano/distilled --output runs/nano/towers.safetensors

In place of `image_tower.py` and `assemble.py`; `detector.py` goes on from its output. The same teacher, photos, KL over
ImageNet and over basic names (weights 0.5 and 1), and cosine to the mean embedding of the ten best classes (weight 5).
What differs from `image_tower.py`:

- one stage, of regions of whole photos; the teacher looks at a crop of each, not at the whole scene; no stage of maps
  first, no mosaics of single-object photos, no change of colours;
- no regression of the teacher's inner maps and no anchor proposals, so no box of the kit is read;
- CLIP's embeddings of the names, not those of nano's text tower;
- AdamW for everything, not Muon for the kernels; epochs, not minutes;
- the factor on the cosine is the model's fixed 50, not learned.

Numbers: not trained to an end; the shipped nano was made by `image_tower.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from teacher import MobileNetV2Teacher
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

import cora
from cora.boxes import scale_to_pixels
from cora.compress.arch_sizes import Architecture
from cora.compress.distill import BothCollate, DistillRun, PhotoFolder, fit, new_student
from cora.detector.fingerprint import weights_fingerprint
from cora.images import CLIP_MEAN, CLIP_STD
from cora.structures import ImageBatch
from cora.training.distill_task import (
    DistillConfig,
    DistillTask,
    Lesson,
    Lexicon,
    Teacher,
    mean_embedding,
    random_regions,
)

#: Side of the teacher's crops in pixels.
CROP = 128
CONFIG = DistillConfig(localizer=False, kl=1.0, cosine=5.0, regions=16)


class RegionClassifier(Teacher):
    """MobileNetV2 on crops of regions.

    Args:
        net: the kit's teacher.
        imagenet: [1000, D] text embeddings of its classes.
        groups: [1000, G] one-hot group, a basic name, of every class.
    """

    def __init__(self, *, net: MobileNetV2Teacher, imagenet: Tensor, groups: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("imagenet", imagenet, persistent=False)
        self.register_buffer("groups", groups, persistent=False)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @torch.no_grad()
    def lesson(self, seen: ImageBatch, regions: int) -> Lesson:
        """Probabilities of random regions over ImageNet's classes and over basic names."""
        boxes = random_regions(len(seen), regions, device=seen.pixels.device)
        corners = [scale_to_pixels(own, size) for own, size in zip(boxes, seen.sizes, strict=True)]
        crops = roi_align(seen.pixels * self.std + self.mean, corners, CROP, aligned=True).clamp(0, 1)
        logits = self.net.logits(self.net.maps(crops * 2 - 1).stride32.mean((2, 3)))
        imagenet = logits.unflatten(0, boxes.shape[:2]).log_softmax(dim=-1)
        basic = (imagenet.exp() @ self.groups).clamp_min(1e-8).log()
        return Lesson(boxes, {"imagenet": imagenet, "basic": basic}, mean_embedding(imagenet, self.imagenet))


def build(kit: Path, text_space: Path, basic_names: Path, *, start: str) -> DistillTask:
    """The task: nano's tower, fresh or as it ships, and the kit's teacher."""
    space, names = np.load(text_space), json.loads(basic_names.read_text())
    imagenet = torch.from_numpy(space["imagenet"]).float()
    basic = torch.from_numpy(np.stack([space[kind][i] for kind, i in names["places"]])).float()
    groups = F.one_hot(torch.tensor(names["group_of"]), len(basic)).float()
    nano = cora.load("nano")
    student = nano if start == "nano" else new_student(nano, Architecture.of(nano.config))
    student.align_fast_pooling(None)  # of the tower as it was; `cora align` fits it when all is trained
    net = MobileNetV2Teacher(kit / "imagenet_teacher" / "mobilenet_v2_1.0_224_quant.tflite")
    return DistillTask(
        student=student,
        teacher=RegionClassifier(net=net, imagenet=imagenet, groups=groups),
        lexicons={"imagenet": Lexicon(imagenet, 0.5), "basic": Lexicon(basic, 1.0)},
        config=CONFIG,
    )


def photos(kit: Path, limit: int | None) -> PhotoFolder:
    """All training photos of the kit."""
    paths = [*sorted((kit / "coco_ovd_mini" / "train").glob("*.jpg")), *sorted((kit / "photos_1k").glob("*.jpg"))]
    return PhotoFolder(paths[:limit])


def made_of(task: DistillTask, start: str) -> dict[str, Any]:
    """What a run folder must not be continued without."""
    return {**asdict(CONFIG), "start": start, "student": weights_fingerprint(task.student)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--kit", "--text-space", "--basic-names", "--run", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--start", choices=("fresh", "nano"), default="fresh")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--limit", type=int, help="only the first photos")
    arguments = parser.parse_args()
    made = build(arguments.kit, arguments.text_space, arguments.basic_names, start=arguments.start)
    to_batch = made.student.preprocessor
    ended = fit(
        made,
        photos=photos(arguments.kit, arguments.limit),
        collate=BothCollate(student=to_batch, teacher=to_batch),
        side=to_batch.config.short_side,
        run_dir=arguments.run,
        run=DistillRun(epochs=arguments.epochs, batch=8, lr=1e-3),
        config=made_of(made, arguments.start),
    )
    if not ended.interrupted:
        made.student.save(arguments.output, dtype=torch.float32)
