"""Seconds to evaluate detections of the size of COCO val2017, and how evaluators compare on the same numbers.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 500 --compare

Random boxes: by default 5,000 images with 36,000 boxes of 80 classes (one in 50 a crowd, some images empty) and 100
detections an image, half of them near a box. Prints the seconds of `evaluate_boxes` from lists of dictionaries, as
they come from a model or a JSON file, to all numbers; of the error shares; of the bootstrap. `--compare` runs
pycocotools and faster-coco-eval (pip install faster-coco-eval) on the same data and prints their seconds and the
largest difference of any class's AP. Issue 4 asks for less than 10 seconds on 2 cores.
Numbers that it gave: docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from cora.evaluation.base_novel import resampled_ap50
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import BoxEvaluation, evaluate_boxes
from cora.evaluation.tide import error_shares, find_errors

CLASSES, SIDE, TARGET = 80, 640, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="in an image")
    parser.add_argument("--compare", action="store_true", help="run the other evaluators, too")
    arguments = parser.parse_args()
    truth, results = random_data(arguments.images, arguments.detections)
    print(f"{arguments.images} images, {len(truth['annotations'])} boxes, {len(results)} detections")
    names = tuple(str(number) for number in range(1, CLASSES + 1))

    began, busy = time.perf_counter(), time.process_time()
    evaluation = evaluate_boxes(truth, results, classes={name: int(name) for name in names})
    wall = report("evaluate_boxes", began, busy)
    began, busy = time.perf_counter(), time.process_time()
    error_shares(find_errors(evaluation.matched), names, {"all": names})
    report("error shares", began, busy)
    began, busy = time.perf_counter(), time.process_time()
    resampled_ap50(evaluation, resample_counts(arguments.images))
    report("bootstrap, 200 resamples", began, busy)
    if arguments.images == 5000 and arguments.detections == 100:
        print(f"target {TARGET:.0f} s: {'reached' if wall < TARGET else 'MISSED'}")
    if arguments.compare:
        compare(evaluation, truth, results)


def report(title: str, began: float, busy: float) -> float:
    """Print and return elapsed seconds; the second number is the processor's, which tells on a busy machine."""
    wall = time.perf_counter() - began
    print(f"{title}: {wall:.2f} s elapsed, {time.process_time() - busy:.2f} s of the processor")
    return wall


def compare(evaluation: BoxEvaluation, truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Time the evaluators with pycocotools' interface, and hotcoco alone, on the same dictionaries."""
    for package, modules in (
        ("hotcoco", ("hotcoco", "hotcoco", "COCOeval")),
        ("faster_coco_eval", ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster")),
        ("pycocotools", ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval")),
    ):
        if find_spec(package) is None:
            print(f"{package}: not installed")
            continue
        data, engine, name = modules
        began, busy = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            annotated = __import__(data, fromlist=["COCO"]).COCO()
            annotated.dataset = truth
            annotated.createIndex()
            detected = annotated.loadRes(results)
            evaluator = getattr(__import__(engine, fromlist=[name]), name)(annotated, detected, "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
        report(package, began, busy)
        precision = np.asarray(evaluator.eval["precision"])[..., 0, -1]
        other = [precision[:, :, k].mean() for k in range(CLASSES)]
        apart = max(abs(a - s.ap) for a, s in zip(other, evaluation.scores, strict=True) if s.ap is not None)
        print(f"    largest difference of a class's AP: {apart:.1e}")


def random_data(images: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results as COCO dictionaries."""
    random = np.random.default_rng(0)
    rarity = 1 / np.arange(1, CLASSES + 1)
    rarity /= rarity.sum()
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = int(random.poisson(7.3))
        boxes = np.column_stack([random.uniform(0, 400, (count, 2)), np.exp(random.uniform(2, 5.3, (count, 2)))])
        classes = random.choice(CLASSES, size=count, p=rarity) + 1
        for box, number in zip(boxes.tolist(), classes.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": number, "bbox": box}
            annotations.append({**entry, "area": 0.7 * box[2] * box[3], "iscrowd": int(random.random() < 0.02)})
        found = np.column_stack(
            [random.uniform(0, 400, (detections, 2)), np.exp(random.uniform(2, 5.3, (detections, 2)))]
        )
        labels = random.choice(CLASSES, size=detections, p=rarity) + 1
        if count:
            near = np.flatnonzero(random.random(detections) < 0.5)
            source = random.integers(0, count, len(near))
            found[near] = boxes[source]
            found[near, :2] += random.normal(0, 0.15, (len(near), 2)) * boxes[source, 2:]
            found[near, 2:] *= np.exp(random.normal(0, 0.15, (len(near), 2)))
            named = random.random(len(near)) < 0.8
            labels[near[named]] = classes[source[named]]
        scores = random.random(detections)
        for box, number, score in zip(found.tolist(), labels.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": number, "bbox": box, "score": score})
    frame = [{"id": number, "width": SIDE, "height": SIDE} for number in range(1, images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)]
    return {"images": frame, "annotations": annotations, "categories": categories}, results


if __name__ == "__main__":
    main()
