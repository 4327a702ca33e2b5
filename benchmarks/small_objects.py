"""What tiles and a larger input do for small objects: average precision, recall, seconds.

    python benchmarks/small_objects.py --images DIR --annotations FILE.json

Small is COCO's: below 32² square pixels. AP and AR are means over IoU 0.50:0.05:0.95 and over the classes that have a
small box. "Found, any name" is the share of all small boxes that some box overlaps by IoU 0.5, whatever it is called.
In brackets the 95 % interval of a bootstrap over images; every way is resampled alike, and the last column is its
difference from the first way in the same resamples.

With `--results FOLDER` what was found is kept there, so that a later call with other ways, or one that goes on after a
stop, predicts nothing twice; delete the folder when the model or the images change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cora
from cora.data.class_split import known_split, read_class_split
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.bootstrap import FloatArray, estimate, mean_of_known, resample_counts
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import predict_dataset
from cora.evaluation.truth import only_images, read_truth
from cora.files import write_json
from cora.predictor.adapt import set_short_side
from cora.predictor.tiling import Tiles

Entries = Sequence[Mapping[str, Any]]
#: COCO results, and seconds.
Found = tuple[list[dict[str, Any]], float]

SMALL = 32**2

#: Images whose results are kept together.
PART = 32

#: What is measured, each in 0..1.
MEASURES = ("AP small", "AR small", "found, any name", "AP50, all sizes")


@dataclass(frozen=True)
class Way:
    """One way of predicting; factor: of the model's short side."""

    name: str
    factor: float = 1.0
    tiles: Tiles | None = None


WAYS = (
    Way("as it is"),
    Way("short side x 1.5", factor=1.5),
    Way("short side x 2", factor=2.0),
    Way("tiles 2x2", tiles=Tiles(count=(2, 2))),
    Way("tiles 2x2, boxes of any size", tiles=Tiles(count=(2, 2), largest=1)),
    Way("tiles 2x2 without the whole", tiles=Tiles(count=(2, 2), whole=False)),
    Way("tiles 3x3", tiles=Tiles(count=(3, 3))),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--split", type=Path, help='JSON of class names, "coco" or "lvis"; all classes by default')
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only so many images, evenly chosen")
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="keep what was found here, and use what is there"
    )
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(len(WAYS))), help="by number, 0 is needed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    names = (
        None if args.split is None else (known_split if not args.split.exists() else read_class_split)(args.split).all
    )
    dataset = CocoDataset(annotations=args.annotations, images=args.images, class_names=names)
    indices = (
        np.linspace(0, len(dataset) - 1, min(len(dataset), args.limit or len(dataset))).round().astype(int).tolist()
    )
    chosen = frozenset(dataset.records[index].image_id for index in indices)
    truth = only_images(read_truth(args.annotations, class_names=list(dataset.class_names)), chosen)
    counts = resample_counts(len(chosen), resamples=args.resamples)
    detector = cora.load(args.model).to(args.device)
    own = detector.preprocessor.config.short_side

    rows = []
    for way in (WAYS[number] for number in args.ways):
        set_short_side(detector, round(own * way.factor))
        results, seconds = predict(detector, dataset, indices, way, args.results)
        measured = measure(truth, results, dataset.class_names)
        resampled = [
            measure(*resample(truth, results, row), dataset.class_names)
            for row in track(counts, f"resampling, {way.name}", console=Console(stderr=True), transient=True)
        ]
        rows.append((way, measured, np.stack(resampled), seconds))
    small = sum(1 for box in truth["annotations"] if box["area"] < SMALL and not box["iscrowd"])
    show(rows, f"{args.model}, {len(chosen)} images with {small} small boxes, {args.threads} threads")


def predict(detector: Detector, dataset: CocoDataset, indices: list[int], way: Way, folder: Path | None) -> Found:
    """What is found one way; parts that are in the folder are read, the others written into it."""
    results: list[dict[str, Any]] = []
    seconds = 0.0
    for start in range(0, len(indices), PART):
        part = indices[start : start + PART]
        file = None if folder is None else folder / f"{way.name.replace(' ', '-')}-{start}.json"
        if file is not None and file.exists():
            found, took = json.loads(file.read_text(encoding="utf-8"))
        else:
            found, took = predict_part(detector, dataset, part, way)
            if file is not None:
                write_json(file, (found, took), indent=None)
        results += found
        seconds += took
    return results, seconds / len(indices)


def predict_part(detector: Detector, dataset: CocoDataset, indices: list[int], way: Way) -> Found:
    """COCO results, and seconds spent in the detector."""
    found = predict_dataset(
        detector,
        dataset,
        dataset.class_names,
        indices=indices,
        tiles=way.tiles,
        progress=lambda chosen: track(chosen, way.name, console=Console(stderr=True), transient=True),
    )
    return found.results, found.seconds


def measure(truth: Mapping[str, Any], results: Entries, names: Sequence[str]) -> FloatArray:
    """[4], in the order of MEASURES; NaN where there is no small box."""
    classes = {name: number for number, name in enumerate(names, start=1)}
    scores = evaluate_boxes(truth, results, classes=classes).scores
    one = {**truth, "annotations": [{**entry, "category_id": 1} for entry in truth["annotations"]]}
    matched = evaluate_boxes(one, [{**entry, "category_id": 1} for entry in results], classes={"any": 1}).matched
    small = (matched.truth.area < SMALL) & ~matched.truth.crowd
    found = np.isin(np.flatnonzero(small), matched.partner[matched.true])
    columns = (
        [score.ap_small for score in scores],
        [score.ar_small for score in scores],
        found,
        [s.ap50 for s in scores],
    )
    return np.array([mean_of_known(np.array(column, dtype=float)) for column in columns])


def resample(truth: Mapping[str, Any], results: Entries, counts: Sequence[int]) -> tuple[dict[str, Any], list[Any]]:
    """Truth and results with every image as often as the counts say, each time under another id."""
    boxes, found = by_image(truth["annotations"]), by_image(results)
    images, annotations, kept = [], [], []
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            number = {"image_id": len(images) + 1}
            images.append({**image, "id": number["image_id"]})
            annotations += [{**box, **number} for box in boxes.get(image["id"], ())]
            kept += [{**box, **number} for box in found.get(image["id"], ())]
    annotations = [{**box, "id": number} for number, box in enumerate(annotations, start=1)]
    return {**truth, "images": images, "annotations": annotations}, kept


def by_image(entries: Entries) -> dict[int, list[Mapping[str, Any]]]:
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["image_id"], []).append(entry)
    return groups


def show(rows: list[tuple[Way, FloatArray, FloatArray, float]], title: str) -> None:
    table = Table("way", *(f"{name}, %" for name in MEASURES), "s an image", "found, gain", title=title)
    first = rows[0][2]
    for way, measured, resampled, seconds in rows:
        cells = [bracketed(value, column) for value, column in zip(measured, resampled.T, strict=True)]
        gain = bracketed(measured[2] - rows[0][1][2], resampled[:, 2] - first[:, 2], sign=True)
        table.add_row(way.name, *cells, f"{seconds:.2f}", "" if way is rows[0][0] else gain)
    Console(width=190).print(table)


def bracketed(value: float, resampled: FloatArray, *, sign: bool = False) -> str:
    spread = estimate(float(value), resampled)
    if spread.value is None or spread.low is None or spread.high is None:
        return "-"
    form = "{:+.1f}" if sign else "{:.1f}"
    return f"{form.format(100 * spread.value)} ({form.format(100 * spread.low)} to {form.format(100 * spread.high)})"


if __name__ == "__main__":
    main()
