"""Compares models on the images that choices are made on, as they are and mirrored, with paired intervals.

Command: python recipes/nano/compare.py --kit ../shared/kit --models nano-ovcoco runs/nano/ovcoco.safetensors

251 images hold few boxes of most classes, so the mean over classes hangs on a few objects. Mirrored images are no new
objects, but show how much of a difference is luck: a change that gains on the images alone gains nothing. `frequent`
are the classes with at least `FREQUENT` boxes. Differences are to the first model, in the mean of both kinds; a
resample draws an image with its mirror image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import ImageOps
from sources import Source, as_coco, choice_images, coco

import cora
from cora.data.class_split import ClassSplit, read_class_split
from cora.data.coco import CocoDataset
from cora.evaluation.base_novel import class_groups, resampled_ap50
from cora.evaluation.bootstrap import FloatArray, IntArray, estimate_of, mean_of_known, resample_counts, whole_first
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset
from cora.images import read_image
from cora.predictor import Predictor

#: Boxes from which a class is frequent.
FREQUENT = 10


def write_images(sources: list[Source], classes: Sequence[str], folder: Path, *, mirrored: bool) -> CocoDataset:
    """The images, or their mirror images, with their boxes of the classes, as a data set in a folder."""
    folder.mkdir(parents=True)
    content = as_coco(sources)
    images = {image["id"]: image for image in content["images"]}
    for source, image in zip(sources, images.values(), strict=True):
        seen = read_image(source.path)
        image["file_name"] = f"{image['id']}.png"
        (ImageOps.mirror(seen) if mirrored else seen).save(folder / image["file_name"])
    for box in content["annotations"] if mirrored else ():
        left, top, width, height = box["bbox"]
        box["bbox"] = [images[box["image_id"]]["width"] - left - width, top, width, height]
    (folder / "boxes.json").write_text(json.dumps(content))
    return CocoDataset(annotations=folder / "boxes.json", images=folder, class_names=classes)


def groups_of(split: ClassSplit, sources: list[Source]) -> dict[str, tuple[str, ...]]:
    """Group -> class names: novel, base, all and frequent."""
    boxes = [source.names[label] for source in sources for label in source.labels.tolist()]
    frequent = tuple(name for name in split.all if boxes.count(name) >= FREQUENT)
    return class_groups(split.base, split.novel) | {"frequent": frequent}


def measure(
    predictor: Predictor, kinds: Sequence[CocoDataset], groups: Mapping[str, Sequence[str]], counts: IntArray
) -> dict[str, FloatArray]:
    """AP50 of every group on images and on their mirror images.

    Args:
        predictor: the model.
        kinds: the images, and their mirror images in the same order.
        groups: group -> class names, of `groups_of`.
        counts: [R, images] how often each resample has each image.

    Returns:
        Group -> [2, 1 + R] in 0..1: of either kind the AP50, then that of every resample.
    """
    numbers = {name: number for number, name in enumerate(groups["all"], start=1)}
    classes = []
    for dataset in kinds:
        results = predict_dataset(predictor, dataset, groups["all"]).results
        evaluation = evaluate_boxes(ground_truth(dataset), results, classes=numbers)
        classes.append(resampled_ap50(evaluation, whole_first(counts)))
    places = {group: [numbers[name] - 1 for name in names] for group, names in groups.items()}
    return {group: mean_of_known(np.stack(classes)[..., chosen]) for group, chosen in places.items()}


def table(models: Sequence[str], measured: Sequence[Mapping[str, FloatArray]]) -> list[str]:
    """Lines of Markdown, a row for each group and model."""
    lines = ["| group | model | images | mirrored | both | both, minus the first model |", "| --- " * 6 + "|"]
    for group in measured[0]:
        first = measured[0][group].mean(0)
        for model, found in zip(models, measured, strict=True):
            both = found[group].mean(0)
            minus = estimate_of(both - first).text(form="+.1f", between=" to ")
            apart = " | ".join(f"{100 * value:.1f}" for value in found[group][:, 0])
            lines.append(f"| {group} | {model} | {apart} | {estimate_of(both).text(between=' to ')} | {minus} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder that holds coco_more and coco_ovd_mini")
    parser.add_argument(
        "--models", nargs="+", required=True, help="names or files; the first is what others differ from"
    )
    parser.add_argument("--limit", type=int, help="number of images")
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(arguments)
    more, split = options.kit / "coco_more", read_class_split(options.kit / "coco_ovd_mini/class_split.json")
    sources = choice_images(coco(more / "all.json", more / "photos", "more"))[: options.limit]
    counts, groups = resample_counts(len(sources), resamples=options.resamples), groups_of(split, sources)
    with TemporaryDirectory() as folder:
        kinds = [
            write_images(sources, split.all, Path(folder) / str(mirrored), mirrored=mirrored)
            for mirrored in (False, True)
        ]
        measured = []
        for model in options.models:
            # The precision of `cora evaluate`: rounding to bfloat16 moves the AP of classes with two boxes.
            predictor = Predictor(cora.load(model).detector, precision="float32")
            measured.append(measure(predictor, kinds, groups, counts))
            print(f"{model}: measured", flush=True)
    print("\n".join(table([Path(model).name for model in options.models], measured)))


if __name__ == "__main__":
    main()
