"""What the teacher knows of the validation photos, and how much of it a tower has: asked before a round of training.

    python recipes/nano/probe.py --kit ../shared/kit --text-space runs/nano/text_space.npz --model nano

Prints the share of the variance of the teacher's maps (strides 8 and 16, whole photos of 384 px) that ridge regression
from the tower's maps explains: fitted on 120 training photos, measured on 40 of `val` and on 40 other training photos,
where the tower would shine if it had learned photos by heart. (Stride 32 is left out: so few photos do not fit a map
of 1,280 channels.) Then how many of `val`'s boxes the teacher names right
among the 65 classes by ConSE (CLIP's embeddings), with its stride-32 map pooled in the box, and with its last stages on
the pooled stride-16 map, which is how a CLIP ResNet is asked.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from teacher import MobileNetV2Teacher, pool_stride32
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

import cora
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.images import CLIP_MEAN, CLIP_STD
from cora.towers import ImageTower

SHORT_SIDE, FITTED, MEASURED = 384, 120, 40
#: Cells left out between two that are used: neighbours say nearly the same.
THINNING = {8: 16, 16: 4}


def pixels(path: Path) -> tuple[Tensor, float]:
    """A photo [1, 3, H, W] in 0..1, zero-padded to multiples of 32, and the factor it was resized by."""
    image = Image.open(path).convert("RGB")
    factor = SHORT_SIDE / min(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32)), factor


def cells(maps: dict[int, Tensor]) -> dict[int, Tensor]:
    return {stride: m[0].flatten(1).T[:: THINNING[stride]] for stride, m in maps.items()}


@torch.inference_mode()
def both_maps(
    teacher: MobileNetV2Teacher, tower: ImageTower, path: Path
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    x, _ = pixels(path)
    seen, net = teacher.maps(x * 2 - 1), tower.net
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    stride8 = net.layer2(net.layer1(net.stem((x - mean) / std)))
    return cells({8: stride8, 16: net.layer3(stride8)}), cells({8: seen.stride8, 16: seen.stride16})


def explained(teacher: MobileNetV2Teacher, tower: ImageTower, coco: Path) -> dict[int, dict[str, float]]:
    """R^2 of the teacher's maps by stride, on photos the regression was not fitted on: new ones and trained ones."""
    pairs = {
        name: [both_maps(teacher, tower, path) for path in islice(sorted((coco / folder).glob("*.jpg")), *places)]
        for name, folder, places in (
            ("fitted", "train", (FITTED,)),
            ("val", "val", (MEASURED,)),
            ("train", "train", (FITTED, FITTED + MEASURED)),
        )
    }
    result: dict[int, dict[str, float]] = {}
    for stride in THINNING:
        cells_of = {
            name: [torch.cat([pair[side][stride] for pair in photos]) for side in (0, 1)]
            for name, photos in pairs.items()
        }
        x, y = cells_of.pop("fitted")
        mean, goal = x.mean(0), y.mean(0)
        ridge = 1e-2 * len(x) * x.var() * torch.eye(x.shape[1])
        weights = torch.linalg.solve((x - mean).T @ (x - mean) + ridge, (x - mean).T @ (y - goal))
        result[stride] = {}
        for name, (new_x, new_y) in cells_of.items():
            rest = ((new_x - mean) @ weights + goal - new_y).square().sum()
            result[stride][name] = float(1 - rest / (new_y - new_y.mean(0)).square().sum())
    return result


@torch.inference_mode()
def named_right(teacher: MobileNetV2Teacher, coco: Path, space: dict[str, Tensor], names: list[str]) -> list[str]:
    """Lines with the share of novel and base boxes that the teacher names right, asked in two ways."""
    split = read_class_split(coco / "class_split.json")
    classes = [*split.base, *split.novel]
    embeddings = F.normalize(space["coco"][[names.index(name) for name in classes]], dim=-1)
    right: dict[str, list[Tensor]] = {"map of the whole photo": [], "last stages on the pooled region": []}
    labels = []
    dataset = CocoDataset(annotations=coco / "val.json", images=coco / "val", class_names=classes, keep_empty=False)
    for record in dataset.records:
        x, factor = pixels(record.path)
        maps = teacher.maps(x * 2 - 1)
        boxes = record.boxes_xyxy_px * factor
        last = pool_stride32(maps.stride32, [boxes], 4)
        again = teacher.last_stages(roi_align(maps.stride16, [boxes], 8, spatial_scale=1 / 16, aligned=True))
        for found, pooled in zip(right.values(), (last, again), strict=True):
            best = teacher.logits(pooled.mean((2, 3))).softmax(-1).topk(10)
            target = (best.values[..., None] * space["imagenet"][best.indices]).sum(1)
            found.append((target @ embeddings.T).argmax(1) == record.classes)
        labels.append(record.classes)
    novel = torch.cat(labels) >= len(split.base)
    return [
        f"teacher, {way}: novel {100 * torch.cat(found)[novel].float().mean():.1f} %, "
        f"base {100 * torch.cat(found)[~novel].float().mean():.1f} %"
        for way, found in right.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--text-space", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    judge = MobileNetV2Teacher(arguments.kit / "imagenet_teacher" / "mobilenet_v2_1.0_224_quant.tflite")
    photos = arguments.kit / "coco_ovd_mini"
    shares = explained(judge, cora.load(arguments.model).image_tower, photos)
    for stride, of in shares.items():
        print(f"stride {stride}: {100 * of['val']:.0f} % explained on val, {100 * of['train']:.0f} % on trained photos")
    saved = np.load(arguments.text_space)
    vectors = {group: torch.from_numpy(saved[group]).float() for group in ("coco", "imagenet")}
    known = json.loads((arguments.kit / "clip_rn50_text" / "names.json").read_text())["coco"]
    print("\n".join(named_right(judge, photos, vectors, known)))
