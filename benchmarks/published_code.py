"""The published code of CORA beside this package, on the same weights and images: differences, and seconds an image.

    git clone https://github.com/tgxs002/CORA CODE
    python benchmarks/published_code.py --code CODE --clip RN50.pt --checkpoint checkpoint.pth \
        --images coco/val2017 --names split.json --limit 3 --threads 1

CODE's network runs as it is, on the CPU, with the options of its configuration for RN50 on OV-COCO. Modules that it
imports and does not need for this are empty here: its CUDA operator (deformable attention), detectron2 (a proposal
network, and `batched_nms`, which is torchvision's), the data sets and the training loop. Both networks get the same
pixels, of this package's preprocessing (short side 800), and the same names. Of all queries the boxes and the scores
(objectness times class probability) are compared; the published code sorts its queries by class, so each is compared
with the nearest of this package's. Then both suppress the published network's boxes. "All boxes" is this package in
the published way, "default" is `predict` without options.

CLIP and checkpoint may hold random numbers: the arithmetic is the same. AP needs trained ones; `cora evaluate` and
CODE's own `--eval` measure it. Fails (exit code 1) if a box or a score differs by more than `--tolerance`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

import cora
from cora.data.sources import find_images
from cora.detector import Detector, DetectorOutput, load_published, select_detections
from cora.images import read_image
from cora.predictor import at_precision, scoring_all_boxes

#: The options of `configs/COCO/R50_...sh` that change what the network computes.
OPTIONS = (
    "--backbone clip_RN50 --text_len 15 --ovd --dim_feedforward 1024 --use_nms --num_queries 1000 "
    "--anchor_pre_matching --remove_misclassified --condition_on_text --enc_layers 3 --text_dim 1024 "
    "--condition_bottleneck 128 --disable_init --epochs 35 --device cpu"
)


def main() -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="clone of the published repository")
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's RN50.pt, a TorchScript archive")
    parser.add_argument("--checkpoint", type=Path, required=True, help="as the published main.py writes it")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--names", type=Path, required=True, help='JSON with the lists "base" and "novel"')
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    split = json.loads(args.names.read_text(encoding="utf-8"))
    names = [*split["base"], *split["novel"]]
    theirs, post = published_network(args.code, args.clip, args.checkpoint)
    ours = load_published(args.checkpoint)
    fast = at_precision(ours, "auto")
    vocabulary = ours.vocabulary_encoder.encode(names)
    text = (theirs.classifier(names).float() - vocabulary.embeddings).abs().max()
    rows: list[dict[str, float]] = []
    for path in find_images([str(args.images)]).paths[: args.limit]:
        batch = ours.preprocessor([read_image(path)])
        seconds, (out, found) = timed(lambda batch=batch: their_detections(theirs, post, batch.pixels, names))
        every, output = timed(lambda batch=batch: network_in_published_way(ours)(batch, vocabulary))
        usual, _ = timed(lambda batch=batch: fast(batch, vocabulary, score_threshold=0.001))
        boxes, scores = differences(out, output)
        rows.append(
            {
                "boxes": boxes,
                "scores": scores,
                "agree": agreement(out, found, batch.pixels.shape[-2:]),
                "published, s": seconds,
                "all boxes, s": every,
                "default, s": usual,
            }
        )
        print(path.name, rows[-1], flush=True)
    print(
        f"\ntorch {torch.__version__}, {args.threads} thread(s), {len(names)} names, text differs by {float(text):.1e}"
    )
    print(table(rows))
    return int(max(max(row["boxes"], row["scores"]) for row in rows) > args.tolerance)


def published_network(code: Path, clip: Path, checkpoint: Path) -> tuple[Any, Any]:
    """The published network in evaluation mode, with the checkpoint's averaged weights, and its post-processing."""
    empty = {
        "MultiScaleDeformableAttention": (),
        "datasets": ("build_dataset", "get_coco_api_from_dataset", "DistributedWeightedSampler"),
        "engine": ("evaluate", "train_one_epoch", "lvis_evaluate"),
        "detectron2": (),
        "detectron2.config": ("get_cfg",),
        "detectron2.modeling": (),
        "detectron2.modeling.proposal_generator": ("build_proposal_generator",),
        "detectron2.modeling.backbone": ("build_backbone",),
        "detectron2.structures": ("ImageList",),
        "detectron2.layers": ("ShapeSpec",),
        "pkg_resources": (),
    }
    for name, attributes in empty.items():
        module = types.ModuleType(name)
        for attribute in attributes:
            setattr(module, attribute, None)
        sys.modules[name] = module
    sys.modules["detectron2.layers"].batched_nms = torchvision.ops.batched_nms  # type: ignore[attr-defined]
    sys.modules["pkg_resources"].packaging = importlib.import_module("packaging")  # type: ignore[attr-defined]
    importlib.import_module("packaging.version")
    sys.path.insert(0, str(code.resolve()))
    parser = importlib.import_module("main").get_args_parser()
    options, _ = argparse.ArgumentParser(parents=[parser]).parse_known_args(OPTIONS.split())
    options.model_path = str(clip)
    classifier = importlib.import_module("models.classifier")
    classifier._download = lambda *_: str(clip)  # the file is here
    network, _, post = importlib.import_module("models").build_model(options)
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    network.load_state_dict(content["model_ema"] if isinstance(content["model_ema"], dict) else content["model"])
    return network.eval(), post["bbox"]


def network_in_published_way(detector: Detector) -> Detector:
    """This package's network, every box pooled exactly, in float32."""
    view: Detector = scoring_all_boxes(detector)
    return view


@torch.no_grad()
def their_detections(network: Any, post: Any, pixels: Tensor, names: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
    """What the published network gives for one image [1, 3, H, W], and its detections in pixels of that size."""
    out = network([pixels[0]], categories=list(names))
    return out, post(out, torch.tensor([list(pixels.shape[-2:])]))[0]


@torch.no_grad()
def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def differences(theirs: dict[str, Tensor], own: DetectorOutput) -> tuple[float, float]:
    """Largest difference of a box, as a share of the image, and of a score, relative to the highest score."""
    boxes, scores = theirs["pred_boxes"][0], theirs["pred_logits"][0].sigmoid()
    mine, its = own.boxes_cxcywh[0], own.scores[0]
    top = scores.max()
    nearest = torch.cdist(torch.cat([boxes, scores / top], 1), torch.cat([mine, its / top], 1), p=float("inf")).argmin(
        1
    )
    return float((boxes - mine[nearest]).abs().max()), float((scores - its[nearest]).abs().max() / top)


def agreement(out: dict[str, Tensor], theirs: dict[str, Tensor], size_hw: Sequence[int]) -> float:
    """Share of the published detections that this package's suppression of the same boxes keeps, too."""
    height, width = size_hw
    boxes, scores, labels = select_detections(
        out["pred_boxes"][0],
        out["pred_logits"][0].sigmoid(),
        (height, width),
        min_score=0.001,
        nms_iou=0.5,
        max_detections=100,
        clip=False,
    )
    same = torchvision.ops.box_iou(theirs["boxes"], boxes) > 0.999
    same &= (theirs["labels"][:, None] == labels) & (theirs["scores"][:, None] == scores)
    return float(same.any(1).float().mean()) if len(same) else 1.0


def table(rows: Sequence[dict[str, float]]) -> str:
    """Largest differences, least agreement, median seconds, and how many times as fast."""
    ways = ("published, s", "all boxes, s", "default, s")
    median = {way: statistics.median(row[way] for row in rows) for way in ways}
    lines = [
        f"| images | boxes differ by | scores differ by | detections kept alike | {' | '.join(ways)} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {len(rows)} | {max(row['boxes'] for row in rows):.1e} | {max(row['scores'] for row in rows):.1e} "
        f"| {100 * min(row['agree'] for row in rows):.0f} % | {median['published, s']:.1f} "
        f"| {median['all boxes, s']:.1f} ({median['published, s'] / median['all boxes, s']:.1f}x) "
        f"| {median['default, s']:.1f} ({median['published, s'] / median['default, s']:.1f}x) |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"cora {cora.__version__}")
    sys.exit(main())
