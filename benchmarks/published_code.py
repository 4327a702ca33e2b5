"""The published code of CORA beside this package, on the same weights and images: differences, AP, seconds an image.

    git clone https://github.com/tgxs002/CORA CODE
    python benchmarks/published_code.py --code CODE --clip RN50.pt --checkpoint checkpoint.pth \
        --images coco/val2017 --annotations instances_val2017.json --names split.json --limit 3 --threads 1

CODE's network runs as it is, on the CPU, with the options of its configuration for RN50 on OV-COCO. Modules that it
imports and does not need for this are empty here: its CUDA operator (deformable attention), detectron2 (a proposal
network, and `batched_nms`, which is torchvision's), the data sets and the training loop. Both networks get the same
pixels, of this package's preprocessing (short side 800), and the same names. Of all queries the boxes and the scores
(objectness times class probability) are compared; the published code sorts its queries by class, so each is compared
with the nearest of this package's. Then both suppress the published network's boxes. "All boxes" is this package in
the published way, which does not clip boxes to the image. "Default" clips them as `predict` does, in the precision that
it chooses, and has the post-processing of a new model, which pools only the best boxes exactly; a converted checkpoint
itself keeps the published post-processing. Times include the suppression.

AP50 and AP are of the detections of each, those of the published network by its own post-processing, on the images that
ran, by this package's evaluation. CLIP and checkpoint may hold random numbers: the arithmetic is the same. But AP on
real annotations is 0 then, whatever differs. So leave out `--annotations`: every fourth detection of the published
network, its left side moved by 0 to 30 % of the width, then stands in for them. Fails (exit code 1) if a box or a score
differs by more than `--tolerance`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

import cora
from cora.data.coco import CocoDataset
from cora.data.sources import find_images
from cora.detections import Detections
from cora.detector import Detector, DetectorOutput, PostprocessConfig, load_published, select_detections
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import MIN_SCORE, NMS_IOU, ground_truth
from cora.images import read_image
from cora.predictor import at_precision, scoring_all_boxes
from cora.regions import Vocabulary
from cora.structures import ImageBatch

#: Boxes in pixels, scores and labels of one image.
Found = tuple[Tensor, Tensor, Tensor]

#: Who detects, in the order of the table.
WAYS = ("published", "all boxes", "default")

#: The options of `configs/COCO/R50_...sh` that change what the network computes.
OPTIONS = (
    "--backbone clip_RN50 --text_len 15 --ovd --dim_feedforward 1024 --use_nms --num_queries 1000 "
    "--anchor_pre_matching --remove_misclassified --condition_on_text --enc_layers 3 --text_dim 1024 "
    "--condition_bottleneck 128 --disable_init --epochs 35 --device cpu"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    split = json.loads(args.names.read_text(encoding="utf-8"))
    names = [*split["base"], *split["novel"]]
    paths, dataset = images_to_run(args.images, args.annotations, names, args.limit)
    theirs, post = published_network(args.code, args.clip, args.checkpoint)
    ours = load_published(args.checkpoint)
    vocabulary = ours.vocabulary_encoder.encode(names)
    text = (theirs.classifier(names).float() - vocabulary.embeddings).abs().max()
    networks = Networks(theirs, post, scoring_all_boxes(ours), in_default_way(ours), vocabulary)
    rows: list[dict[str, float]] = []
    found: list[dict[str, Found]] = []
    for path in paths:
        row, detections = networks.compared(ours.preprocessor([read_image(path)]))
        rows.append(row)
        found.append(detections)
        print(path.name, row, flush=True)
    print(
        f"\ntorch {torch.__version__}, {args.threads} thread(s), {len(names)} names, text differs by {float(text):.1e}"
    )
    truth = ground_truth(dataset) if dataset is not None else stand_in([one["published"] for one in found], names)
    print(table(rows, {way: average_precision(truth, [one[way] for one in found], names) for way in WAYS}))
    return int(max(max(row["boxes"], row["scores"]) for row in rows) > args.tolerance)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="clone of the published repository")
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's RN50.pt, a TorchScript archive")
    parser.add_argument("--checkpoint", type=Path, required=True, help="as the published main.py writes it")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, help="COCO file of these images, for AP")
    parser.add_argument("--names", type=Path, required=True, help='JSON with the lists "base" and "novel"')
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tolerance", type=float, default=1e-3)
    return parser.parse_args(argv)


def images_to_run(
    folder: Path, annotations: Path | None, names: Sequence[str], limit: int
) -> tuple[list[Path], CocoDataset | None]:
    """The first `limit` images of a folder, or of the annotations, with the data set of these images."""
    if annotations is None:
        return list(find_images([str(folder)]).paths[:limit]), None
    whole = CocoDataset(annotations=annotations, images=folder, class_names=names)
    dataset = whole.with_records(whole.records[:limit])
    return [record.path for record in dataset.records], dataset


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
    classifier: Any = importlib.import_module("models.classifier")
    classifier._download = lambda *_: str(clip)  # the file is here
    network, _, post = importlib.import_module("models").build_model(options)
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    network.load_state_dict(content["model_ema"] if isinstance(content["model_ema"], dict) else content["model"])
    return network.eval(), post["bbox"]


@dataclass(frozen=True)
class Networks:
    """The published network and its post-processing, and this package's network in two ways."""

    theirs: Any
    post: Any
    every: Detector
    usual: Detector
    vocabulary: Vocabulary

    def compared(self, batch: ImageBatch) -> tuple[dict[str, float], dict[str, Found]]:
        """Run all on one image: differences and seconds, and the detections of each way."""
        default = partial(our_detections, self.usual, batch, self.vocabulary, score_threshold=MIN_SCORE, clip=True)
        published, (out, theirs) = timed(partial(their_detections, self.theirs, self.post, batch, self.vocabulary))
        every, (output, ours) = timed(partial(our_detections, self.every, batch, self.vocabulary))
        usual, (_, fast) = timed(default)
        boxes, scores = differences(out, output)
        agree = agreement(out, theirs, batch.original_sizes[0])
        seconds = dict(zip(WAYS, (published, every, usual), strict=True))
        found = dict(zip(WAYS, (theirs, ours, fast), strict=True))
        return {"boxes": boxes, "scores": scores, "agree": agree, **seconds}, found


def in_default_way(detector: Detector) -> Detector:
    """A view with the post-processing of a new model, in the precision that `predict` chooses."""
    config = replace(detector.config, postprocess=PostprocessConfig())
    view: Detector = at_precision(detector.with_parts(config=config), "auto")
    return view


@torch.no_grad()
def their_detections(
    network: Any, post: Any, batch: ImageBatch, vocabulary: Vocabulary
) -> tuple[dict[str, Tensor], Found]:
    """What the published network gives for one image, and its detections in pixels of that image."""
    out = network([batch.pixels[0]], categories=list(vocabulary.names))
    found = post(out, torch.tensor([list(batch.original_sizes[0])]))[0]
    return out, (found["boxes"], found["scores"], found["labels"])


@torch.no_grad()
def our_detections(
    detector: Detector, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0, clip: bool = False
) -> tuple[DetectorOutput, Found]:
    """What this package gives for one image, and its detections in pixels of that image."""
    output = detector(batch, vocabulary, score_threshold=score_threshold)
    return output, suppressed(output.boxes_cxcywh[0], output.scores[0], batch.original_sizes[0], clip=clip)


def suppressed(boxes_cxcywh: Tensor, scores: Tensor, size_hw: tuple[int, int], *, clip: bool = False) -> Found:
    """The best 100 detections of an image by this package's suppression, with the published thresholds."""
    return select_detections(
        boxes_cxcywh, scores, size_hw, min_score=MIN_SCORE, nms_iou=NMS_IOU, max_detections=100, clip=clip
    )


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


def agreement(out: dict[str, Tensor], theirs: Found, size_hw: tuple[int, int]) -> float:
    """Share of the published detections that this package's suppression of the same boxes keeps, too."""
    boxes, scores, labels = suppressed(out["pred_boxes"][0], out["pred_logits"][0].sigmoid(), size_hw)
    same = torchvision.ops.box_iou(theirs[0], boxes) > 0.999
    same &= (theirs[2][:, None] == labels) & (theirs[1][:, None] == scores)
    return float(same.any(1).float().mean()) if len(same) else 1.0


def stand_in(published: Sequence[Found], names: Sequence[str]) -> dict[str, Any]:
    """COCO ground truth of some published detections, moved, so that AP is neither 0 nor 1 whatever the weights.

    Args:
        published: detections of each image.
        names: of the classes.
    """
    annotations = []
    for image, (boxes, _, labels) in enumerate(published, start=1):
        for place in range(0, len(boxes), 4):
            x0, y0, x1, y1 = boxes[place].tolist()
            x0 += 0.1 * (place // 4 % 4) * (x1 - x0)
            bbox = [x0, y0, x1 - x0, y1 - y0]
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": int(labels[place]) + 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": bbox, "area": bbox[2] * bbox[3]})
    return {
        "images": [{"id": image} for image in range(1, len(published) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "annotations": annotations,
    }


def average_precision(truth: Mapping[str, Any], found: Sequence[Found], names: Sequence[str]) -> tuple[float, float]:
    """AP50 and AP over the classes that have boxes, 0..1.

    Args:
        truth: COCO ground truth of the images that ran.
        found: detections of each, in the same order.
        names: of the classes, in the order of the labels.
    """
    results = [
        result
        for image, detections in zip(truth["images"], found, strict=True)
        for result in Detections(*detections, tuple(names), (1, 1)).to_coco(image["id"])
    ]
    classes = {name: number for number, name in enumerate(names, start=1)}
    evaluation = evaluate_boxes(truth, results, classes=classes)
    known = [(score.ap50, score.ap) for score in evaluation.scores if score.ap50 is not None and score.ap is not None]
    if not known:
        return float("nan"), float("nan")
    ap50, ap = zip(*known, strict=True)
    return statistics.fmean(ap50), statistics.fmean(ap)


def table(rows: Sequence[dict[str, float]], precision: Mapping[str, tuple[float, float]]) -> str:
    """Largest differences and least agreement; of each way AP50 and AP, median seconds, and how many times as fast.

    Args:
        rows: one of each image.
        precision: way -> AP50 and AP, 0..1.
    """
    median = {way: statistics.median(row[way] for row in rows) for way in WAYS}
    lines = [
        "| images | boxes differ by | scores differ by | detections kept alike |",
        "| --- | --- | --- | --- |",
        f"| {len(rows)} | {max(row['boxes'] for row in rows):.1e} | {max(row['scores'] for row in rows):.1e} "
        f"| {100 * min(row['agree'] for row in rows):.0f} % |",
        "",
        "| way | AP50, % | AP, % | s an image | times as fast |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way in WAYS:
        ap50, ap = (f"{100 * score:.2f}" for score in precision[way])
        lines.append(f"| {way} | {ap50} | {ap} | {median[way]:.1f} | {median['published'] / median[way]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"cora {cora.__version__}")
    sys.exit(main())
