"""What the default way of `latency.py` costs in accuracy: AP50 of nano, and how far half precision moves its boxes."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
from export import kit_pictures
from latency_table import ALL_BOXES, DEFAULT
from torch import Tensor

import cora
from cora.compress.quantize_check import Contender, compare
from cora.predictor import PredictOptions, Predictor, at_precision
from cora.towers.folding import inference_dtype

#: Of an evaluation: nothing is left out because a user would not see it.
SCORE = 0.001


def measure_ap(kit: Path, limit: int | None) -> dict[str, dict[str, dict[str, float | None]]]:
    """AP50 of nano in percent, and its change from the first row, by way and group, with intervals."""
    detector, pictures = cora.load("nano").to("cuda" if torch.cuda.is_available() else "cpu"), kit_pictures(kit, limit)
    vocabulary = detector.vocabulary(pictures.classes, distractors=())
    options: dict[str, PredictOptions] = {f"{ALL_BOXES}, float32": {"score_all_boxes": True}}
    default = str(inference_dtype(detector.precision, detector.device)).removeprefix("torch.")
    options |= {f"{DEFAULT}, float32": {"precision": "float32"}, f"{DEFAULT}, {default}": {}}
    ways = [
        Contender(name=way, predict=partial(detector.predict, classes=vocabulary, score=SCORE, **chosen), files=())
        for way, chosen in options.items()
    ]
    return {
        row.name: {
            group: {"value": score.value, "low": score.low, "high": score.high}
            | {f"change {part}": getattr(row.change[group], part) for part in ("value", "low", "high")}
            for group, score in row.ap50.items()
        }
        for row in compare(ways, pictures)
    }


def rounding(kit: Path, photos: int = 20) -> dict[str, dict[str, float]]:
    """How far nano's boxes move by half precision of the localizer and of the tower, in percent of the image."""
    from cora.data.read import read_dataset

    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    plain = at_precision(cora.load("nano").detector, "float32")
    halves = at_precision(plain, "bfloat16")
    vocabulary = Predictor(plain).vocabulary(dataset.class_names)
    moved: dict[str, list[Tensor]] = defaultdict(list)
    with torch.inference_mode():
        for index in range(photos):
            batch = plain.preprocessor([dataset[index][0]])
            (c3, c4), (halved_c3, _) = plain.encode(batch), halves.encode(batch)
            matched = plain.pre_match(c4, plain.anchors(plain.encode_map(c3)), vocabulary)
            boxes = plain.decode(plain.encode_map(c3), matched).boxes_cxcywh[-1]
            for part, view, map_ in (("localizer", halves, c3), ("tower", plain, halved_c3)):
                moved[part].append((view.decode(view.encode_map(map_), matched).boxes_cxcywh[-1] - boxes).abs())
    return {
        part: {"median": 100 * float(torch.cat(all_).median()), "most": 100 * float(torch.cat(all_).max())}
        for part, all_ in moved.items()
    }
