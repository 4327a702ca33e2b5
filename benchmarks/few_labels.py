"""Few labels: which way of teaching a model gains most from 1, 5 or 20 boxes a class, and what it costs.

    python benchmarks/few_labels.py --images KIT/steel_defects/images \
        --annotations KIT/steel_defects/annotations.json --output few/steel_defects

The images are divided as `cora finetune` divides them: `--hold-out` of them are measured on, whatever is learned. From
the others whole images are drawn, with all their boxes, since a person labels whole images, and an object without its
box would be taught as background. They are drawn one by one until every class has `--boxes` boxes, or no image is
left; images that give fewer boxes beyond that come first. So the true number of boxes is often a little larger, and
smaller where a class has no more; the table says it.

  names               the class names alone, nothing is learned
  exemplars           the boxes are exemplars (`cora detect --exemplar`), beside the names
  exemplars-alone     the same without the names
  text-prompts        `cora text-prompts --method context`
  names-stage         `cora finetune --teach names`
  prototypes          `cora finetune --teach names --prototypes 0.5`
  class-prompts       an offset of the region prompt for each class (class_prompts.py), which `cora` does not offer
  full                `cora finetune`, with `--steps` steps for proposals and for the decoder, about the same in every
                      cell whatever the number of images, so that a cell takes minutes

AP50 is that of `cora evaluate`, with the 95 % interval of a bootstrap over images; with several `--seeds` the mean over
as many draws of boxes. The second table has differences from the full fine-tuning in the same resamples. Seconds are
processor time (over all `--threads`) of learning, with reading and encoding the images, without measuring.

`--output` gets `results.json`, which also has the processor seconds of detection in an image, and `table.md`. A cell
that is in the results is not run again; one that was stopped goes on where it can.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cora
from cora import Predictor, Vocabulary
from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset
from cora.data.hold_out import divide_images
from cora.data.same_content import image_groups
from cora.detector.fingerprint import weights_fingerprint
from cora.evaluation.base_novel import resampled_ap50
from cora.evaluation.bootstrap import FloatArray, estimate, mean_of_known, resample_counts
from cora.evaluation.coco_ap import detection_limit, evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset
from cora.files import write_json
from cora.training.defaults import finetune_recipe
from cora.training.override import override
from cora.training.pipeline import TrainingPipeline
from cora.training.region_embeddings import embed_dataset
from cora.training.text_training import DEFAULTS, build_text_task, kept_names, train_text

PROTOTYPES = 0.5


@dataclass(frozen=True)
class Lesson:
    """What a way learns from; run: a folder of its own; steps: of proposals and decoder."""

    model: str
    few: CocoDataset
    run: Path
    steps: tuple[int, int]


#: Changes a fresh predictor; the vocabulary to look for, None for the class names.
Way = Callable[[Predictor, Lesson], Vocabulary | None]


def names(predictor: Predictor, lesson: Lesson) -> None:
    """Nothing is learned."""


def exemplars(predictor: Predictor, lesson: Lesson) -> Vocabulary:
    """Names and exemplars."""
    return predictor.vocabulary(lesson.few.class_names, exemplars=boxes_by_class(lesson.few), distractors=())


def exemplars_alone(predictor: Predictor, lesson: Lesson) -> Vocabulary:
    """Exemplars."""
    return predictor.vocabulary(exemplars=boxes_by_class(lesson.few), distractors=())


def text_prompts(predictor: Predictor, lesson: Lesson) -> None:
    """A learned context, as `cora text-prompts` learns it."""
    detector, config = predictor.detector, DEFAULTS["context"]
    data = embed_dataset(detector, lesson.few, None, "train")
    torch.manual_seed(config.seed)
    split = ClassSplit(base=lesson.few.class_names)
    task = build_text_task("context", detector=detector, data=data, kept_names=kept_names(split), config=config)
    train_text(task, data, config, lesson.run)
    task.eval().artefact().apply(detector)


def names_stage(predictor: Predictor, lesson: Lesson) -> None:
    """Offsets of the class names."""
    finetune(predictor, lesson, "proposals=None", "localizer=None")


def prototypes(predictor: Predictor, lesson: Lesson) -> None:
    """The same from prototypes."""
    finetune(predictor, lesson, "proposals=None", "localizer=None", f"names.prototypes={PROTOTYPES}")


def class_prompts(predictor: Predictor, lesson: Lesson) -> None:
    """Region prompts of the classes."""
    from class_prompts import teach  # a neighbour, which a test of other ways does not find

    teach(predictor, lesson.few)


def full(predictor: Predictor, lesson: Lesson) -> None:
    """All of `cora finetune`."""
    steps_an_epoch = max(1, len(lesson.few) // min(4, len(lesson.few)))
    proposals, decoder = (ceil(steps / steps_an_epoch) for steps in lesson.steps)
    trunk = predictor.detector.image_tower.box_trunk is not None
    finetune(
        predictor,
        lesson,
        *([f"proposals.epochs={proposals}"] if trunk else []),
        f"localizer.epochs={decoder}",
        f"evaluate_every={decoder}",
    )


WAYS: dict[str, Way] = {
    "names": names,
    "exemplars": exemplars,
    "exemplars-alone": exemplars_alone,
    "text-prompts": text_prompts,
    "names-stage": names_stage,
    "prototypes": prototypes,
    "class-prompts": class_prompts,
    "full": full,
}
#: Ways that do not look at the boxes: one cell each.
UNTAUGHT = ("names",)


def finetune(predictor: Predictor, lesson: Lesson, *settings: str) -> None:
    """What `cora finetune` trains, with settings of its recipe."""
    detector = predictor.detector
    recipe = finetune_recipe(
        lesson.model,
        short_side=detector.preprocessor.typical_short_side([record.size for record in lesson.few.records]),
        photos=len(lesson.few),
        trunk=detector.image_tower.box_trunk is not None,
    )
    TrainingPipeline(
        recipe=override(recipe, settings), detector=detector, dataset=lesson.few, run=lesson.run / "finetune"
    ).all()


def boxes_by_class(dataset: CocoDataset) -> dict[str, list[tuple[Path, list[float]]]]:
    """Class name -> images with a box of it."""
    return {
        name: [
            (record.path, box)
            for record in dataset.records
            for box in record.boxes_xyxy_px[record.classes == label].tolist()
        ]
        for label, name in enumerate(dataset.class_names)
    }


def divide(dataset: CocoDataset, share: float) -> tuple[CocoDataset, CocoDataset]:
    """Images to draw from, and those to measure on; copies of an image are on one side."""
    together = image_groups([record.path for record in dataset.records])
    classes = [[label for place in group for label in dataset.records[place].classes.tolist()] for group in together]
    chosen = {place for number in divide_images(classes, share=share, seed=0) for place in together[number]}

    def part(held: bool) -> CocoDataset:
        return dataset.with_records(r for place, r in enumerate(dataset.records) if (place in chosen) == held)

    pool, held_out = part(False), part(True)
    missing = [n for n, count in zip(pool.class_names, pool.class_counts().tolist(), strict=True) if not count]
    if missing:
        raise SystemExit(f"expected a box of every class to learn from, got none of {', '.join(missing)}")
    return pool, held_out


def draw_few(classes: Sequence[Sequence[int]], boxes: int, seed: int) -> list[int]:
    """Whole images, drawn one by one until every class has enough boxes.

    Args:
        classes: for every image the classes of its boxes.
        boxes: wanted of each class.
        seed: of the order in which images are tried.

    Returns:
        Sorted indices: every class has `boxes` boxes or more, or all that there are. Of images with a box that is
        still wanted those come first that have fewer boxes beyond.
    """
    left = [place for place, one in enumerate(classes) if one]
    random.Random(seed).shuffle(left)
    wanted = Counter({label: boxes for one in classes for label in one})
    chosen: list[int] = []

    def beyond(place: int) -> int:
        return sum(max(0, count - wanted[label]) for label, count in Counter(classes[place]).items())

    while useful := [place for place in left if any(wanted[label] for label in classes[place])]:
        best = min(useful, key=beyond)
        left.remove(best)
        chosen.append(best)
        wanted = Counter({label: max(0, count - classes[best].count(label)) for label, count in wanted.items()})
    return sorted(chosen)


def measure(predictor: Predictor, dataset: CocoDataset, vocabulary: Vocabulary | None) -> dict[str, Any]:
    """AP50, AP50 in every resample, and processor seconds of detection with reading the image."""
    truth, classes = ground_truth(dataset), dataset.class_names
    start = time.process_time()
    found = predict_dataset(predictor, dataset, vocabulary or classes, max_detections=detection_limit(truth))
    seconds = (time.process_time() - start) / max(1, len(dataset))
    evaluation = evaluate_boxes(truth, found.results, classes={name: i for i, name in enumerate(classes, start=1)})
    resampled = mean_of_known(resampled_ap50(evaluation, resample_counts(len(dataset))))
    present = [score.ap50 for score in evaluation.scores if score.ap50 is not None and score.boxes]
    return {
        "ap50": float(np.mean(present)),
        "resampled": [round(float(value), 6) for value in resampled],
        "seconds_an_image": seconds,
    }


def run_cell(way: str, lesson: Lesson, held_out: CocoDataset) -> dict[str, Any]:
    """Learn and measure."""
    predictor = cora.load(lesson.model)
    lesson.run.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    vocabulary = WAYS[way](predictor, lesson)
    seconds = time.process_time() - start
    counts = lesson.few.class_counts().tolist()
    cell = measure(predictor, held_out, vocabulary) | {
        "seconds": seconds,
        "images": len(lesson.few),
        "boxes": dict(zip(lesson.few.class_names, counts, strict=True)),
    }
    shutil.rmtree(lesson.run)
    return cell


def key_of(way: str, boxes: int, seed: int) -> str:
    """Name of a cell in the results."""
    return way if way in UNTAUGHT else f"{way} {boxes} {seed}"


def table(results: dict[str, Any], boxes: Sequence[int], seeds: Sequence[int]) -> str:
    """Two Markdown tables: AP50, and its difference from the full fine-tuning, of the cells that there are."""

    def cells(way: str, count: int) -> list[dict[str, Any]]:
        found = [results["cells"].get(key_of(way, count, seed)) for seed in seeds]
        return found if all(found) else []

    def numbers(way: str, count: int) -> tuple[float, FloatArray] | None:
        found = cells(way, count)
        if not found:
            return None
        return float(np.mean([one["ap50"] for one in found])), np.mean([one["resampled"] for one in found], axis=0)

    def drawn(count: int) -> str:
        found = next((found for way in WAYS if way not in UNTAUGHT and (found := cells(way, count))), [])
        sizes = [(sum(one["boxes"].values()), one["images"]) for one in found]
        if not sizes:
            return f"{count} a class"
        total, images = (round(float(np.mean(part)), 1) for part in zip(*sizes, strict=True))
        return f"{count} a class ({total:g} boxes, {images:g} images)"

    def row(way: str) -> str:
        parts = []
        for count in boxes:
            found = numbers(way, count)
            parts.append("-" if found is None else estimate(*found).text())
            seconds = [one["seconds"] for one in cells(way, count)]
            parts.append(f"{np.mean(seconds):.0f}" if seconds and way not in UNTAUGHT else "-")
        return f"| {way} | " + " | ".join(parts) + " |"

    def difference(way: str) -> str:
        parts = []
        for count in boxes:
            mine, other = numbers(way, count), numbers("full", count)
            if mine is None or other is None:
                parts.append("-")
            else:
                change = estimate(mine[0] - other[0], mine[1] - other[1])
                parts.append(change.text(form="+.1f", between=" to "))
        return f"| {way} | " + " | ".join(parts) + " |"

    ways = [way for way in WAYS if any(cells(way, count) for count in boxes)]
    heads = [drawn(count) for count in boxes]
    first = ["AP50, %", *(part for head in heads for part in (head, "s"))]
    second = ["minus full", *heads]
    lines = [f"| {' | '.join(first)} |", "|" + " --- |" * len(first), *map(row, ways), ""]
    others = [way for way in ways if way != "full"]
    lines += [f"| {' | '.join(second)} |", "|" + " --- |" * len(second), *map(difference, others), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--hold-out", type=float, default=0.2, metavar="SHARE")
    parser.add_argument("--methods", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 5, 20], help="of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the drawing of boxes")
    parser.add_argument("--steps", type=int, nargs=2, default=[30, 30], help="of proposals and decoder, full only")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    pool, held_out = divide(CocoDataset(annotations=args.annotations, images=args.images), args.hold_out)
    about = {
        "model": weights_fingerprint(cora.load(args.model).detector),
        "held out": [record.path.name for record in held_out.records],
        "steps": args.steps,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"about": about, "cells": {}}
    if results["about"] != about:
        differing = ", ".join(key for key in about if results["about"].get(key) != about[key])
        raise SystemExit(f"{file} has cells of another {differing}; name another --output")
    classes = [record.classes.tolist() for record in pool.records]
    for count in args.boxes:
        for seed in args.seeds:
            chosen = set(draw_few(classes, count, seed))
            few = pool.with_records(record for place, record in enumerate(pool.records) if place in chosen)
            for way in args.methods:
                key = key_of(way, count, seed)
                if key in results["cells"]:
                    continue
                lesson = Lesson(args.model, few, args.output / "runs" / key.replace(" ", "-"), tuple(args.steps))
                cell = results["cells"][key] = run_cell(way, lesson, held_out)
                write_json(file, results)
                print(f"{key}: AP50 {100 * cell['ap50']:.1f}, {cell['seconds']:.0f} s", flush=True)
    text = table(results, args.boxes, args.seeds)
    (args.output / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
