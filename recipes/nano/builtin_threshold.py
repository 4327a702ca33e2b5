"""Chooses the score threshold of the built-in vocabulary, on boxes of COCO's classes.

Command: python recipes/nano/builtin_threshold.py --kit ../shared/kit
Every image is looked at as `predict` does without classes. A detection is right if its IoU with a ground-truth box that
no better one has taken is 0.5 or more, and its name is that of the box's class, or a kind of it (`KINDS`). Of the other
detections those are wrong that have a name of COCO or overlap a box with IoU 0.5 or more; the rest may be things that
COCO has no class for, and do not count. Images are those of `sources.choice_images`, which nothing was learned from.

Measured: on 150 images with 1,891 boxes, 1,200 names (one thread)
    nano, threshold      0.05   0.08   0.088  0.1    0.12   0.15   0.2
    precision, %         43.3   59.5   63.7   67.8   75.7   83.6   90.8
    recall, %            49.9   43.6   42.2   40.3   37.2   33.3   26.2
    F1, %                46.4   50.3   50.8   50.5   49.9   47.6   40.6
0.1 is taken: F1 is nearly the best, and of three detections that count two are right. nano-ovcoco, which learned 48
names, reaches an F1 of 4.8 % (60 images) and is no model for this.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sources import Source, choice_images, coco
from torch import Tensor

import cora
from cora.boxes import pairwise_iou
from cora.data.builtin_names import builtin_names
from cora.evaluation.best_threshold import best_threshold
from cora.names import names_without
from cora.structures import Detections

IOU, LOWEST = 0.5, 0.02

#: Class of COCO -> names of the built-in vocabulary that are right for its boxes, too.
KINDS = {
    "car": ("convertible", "jeep", "limousine", "minivan", "police cruiser", "race car", "taxi"),
    "motorcycle": ("dirt bike", "motor scooter"),
    "airplane": ("fighter jet", "jet plane", "seaplane"),
    "bus": ("school bus",),
    "train": ("bullet train", "freight car", "passenger car", "railcar"),
    "truck": ("fire engine", "garbage truck", "pickup truck", "tow truck", "trailer truck"),
    "boat": (
        "barge", "canoe", "cargo ship", "cruise ship", "dinghy", "ferry", "gondola", "houseboat", "kayak",
        "passenger ship", "raft", "river boat", "yacht",
    ),
    "bench": ("pew",),
    "bird": (
        "crow", "dove", "duck", "duckling", "eagle", "falcon", "flamingo", "goose", "gull", "heron", "hummingbird",
        "mallard", "ostrich", "owl", "parakeet", "parrot", "pelican", "penguin", "pigeon", "puffin", "rooster",
        "seabird", "vulture",
    ),
    "cat": ("kitten",),
    "dog": ("bulldog", "dalmatian", "pug-dog", "puppy", "shepherd dog"),
    "horse": ("foal", "pony"),
    "sheep": ("black sheep", "lamb", "ram"),
    "cow": ("bull", "calf"),
    "bear": ("cub", "grizzly", "polar bear"),
    "backpack": ("satchel",),
    "umbrella": ("parasol",),
    "handbag": ("clutch bag", "satchel", "shoulder bag", "tote bag"),
    "tie": ("bolo tie", "bow-tie"),
    "suitcase": ("briefcase", "trunk (luggage)"),
    "sports ball": (
        "American football", "ball", "baseball", "basketball", "soccer ball", "softball", "tennis ball", "volleyball",
    ),
    "tennis racket": ("racket",),
    "bottle": ("beer bottle", "thermos bottle", "water bottle", "wine bottle"),
    "wine glass": ("flute glass", "glass"),
    "cup": ("Dixie cup", "glass", "measuring cup", "mug", "teacup"),
    "knife": ("pocketknife", "steak knife"),
    "spoon": ("ladle", "soupspoon", "wooden spoon"),
    "bowl": ("soup bowl", "sugar bowl"),
    "orange": ("clementine", "mandarin orange"),
    "sandwich": ("hamburger",),
    "cake": ("birthday cake", "chocolate cake", "cupcake", "wedding cake"),
    "chair": ("armchair", "deck chair", "electric chair", "folding chair", "highchair", "recliner", "rocking chair"),
    "couch": ("futon", "loveseat", "sofa bed"),
    "potted plant": ("flowerpot", "flower arrangement"),
    "bed": ("bunk bed",),
    "dining table": ("coffee table", "desk", "kitchen table", "table"),
    "tv": ("computer monitor",),
    "mouse": ("computer mouse",),
    "remote": ("game controller", "remote control"),
    "cell phone": ("telephone",),
    "oven": ("cooker", "stove", "toaster oven"),
    "sink": ("kitchen sink", "washbasin"),
    "book": ("booklet", "comic book", "hardback book", "notebook", "paperback book"),
    "clock": ("alarm clock", "clock tower", "wall clock"),
    "vase": ("urn",),
    "scissors": ("shears",),
}  # fmt: skip


def judged(found: Detections, source: Source) -> tuple[list[float], list[bool]]:
    """Scores of the detections that count, and whether each is right."""
    size = torch.tensor([*reversed(found.image_size)] * 2)
    overlap = pairwise_iou(found.boxes_xyxy_px, source.boxes_xyxy * size)
    classes = [source.names[label] for label in source.labels.tolist()]
    of_coco = {name for of in source.names for name in (of, *KINDS.get(of, ()))}
    scores, right, taken = [], [], torch.zeros(len(classes), dtype=torch.bool)
    for row, (name, score, _) in enumerate(found):
        suits = torch.tensor([name == of or name in KINDS.get(of, ()) for of in classes], dtype=torch.bool)
        best = _best(overlap[row], suits & ~taken)
        if best is not None:
            taken[best] = True
        if best is not None or name in of_coco or bool((overlap[row] >= IOU).any()):
            scores.append(score)
            right.append(best is not None)
    return scores, right


def _best(overlaps: Tensor, allowed: Tensor) -> int | None:
    """Place of the greatest overlap of at least `IOU` among the allowed ones."""
    usable = torch.where(allowed, overlaps, torch.zeros_like(overlaps))
    return int(usable.argmax()) if len(usable) and float(usable.max()) >= IOU else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=150, help="the first N, at most (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    strangers = names_without([name for kinds in KINDS.values() for name in kinds], builtin_names())
    assert not strangers, f"expected names of the built-in vocabulary, got {strangers}"
    sources = choice_images(coco(options.kit / "coco_more/all.json", options.kit / "coco_more/photos", "more"))
    sources = sources[: options.images]
    predictor = cora.load(options.model)
    vocabulary = predictor.vocabulary()
    scores: list[float] = []
    right: list[bool] = []
    for source in sources:
        one = judged(predictor.predict(source.path, vocabulary, score=LOWEST), source)
        scores += one[0]
        right += one[1]
    positives = sum(len(source.labels) for source in sources)
    values, hits = np.array(scores), np.array(right, dtype=bool)
    print(f"{options.model}: {len(vocabulary)} names, {len(sources)} images, {positives} boxes")
    for threshold in (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4):
        above = values > threshold
        count, true = int(above.sum()), int(hits[above].sum())
        precision, recall, f1 = true / max(count, 1), true / positives, 2 * true / (count + positives)
        print(
            f"  {threshold:4g}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}, {count} detections count"
        )
    print(best_threshold(values, hits, positives, lowest=LOWEST))


if __name__ == "__main__":
    main()
