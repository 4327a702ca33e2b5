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
from typing import Any

import numpy as np
from PIL import ImageOps
from sources import Source, as_coco, choice_images, coco

import cora
from cora.data.class_split import ClassSplit, read_class_split
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.bootstrap import FloatArray, estimate_of, resample_counts
from cora.evaluation.group_measure import measure
from cora.evaluation.predict import Predictions, predict_dataset
from cora.images import read_image
from cora.predictor import Predictor

#: Boxes from which a class is frequent.
FREQUENT = 10


def plain(sources: list[Source], classes: Sequence[str], folder: Path) -> CocoDataset:
    """The images with their boxes of the classes; the folder gets the file of boxes."""
    return _dataset(as_coco(sources), sources[0].path.parent, classes, folder)


def mirrored(sources: list[Source], classes: Sequence[str], folder: Path) -> CocoDataset:
    """The mirror images with their boxes of the classes; the folder gets both."""
    content = as_coco(sources)
    images = {image["id"]: image for image in content["images"]}
    for source, image in zip(sources, images.values(), strict=True):
        image["file_name"] = f"{image['id']}.png"
        ImageOps.mirror(read_image(source.path)).save(folder / image["file_name"])
    for box in content["annotations"]:
        left, top, width, height = box["bbox"]
        box["bbox"] = [images[box["image_id"]]["width"] - left - width, top, width, height]
    return _dataset(content, folder, classes, folder)


def _dataset(content: dict[str, Any], images: Path, classes: Sequence[str], folder: Path) -> CocoDataset:
    annotations = folder / "boxes.json"
    annotations.write_text(json.dumps(content))
    return CocoDataset(annotations=annotations, images=images, class_names=classes)


def groups_of(split: ClassSplit, sources: list[Source]) -> dict[str, tuple[str, ...]]:
    """Group -> class names: novel, base, all, and frequent if there are such classes."""
    boxes = [source.names[label] for source in sources for label in source.labels.tolist()]
    frequent = tuple(name for name in split.all if boxes.count(name) >= FREQUENT)
    return class_groups(split.base, split.novel) | ({"frequent": frequent} if frequent else {})


def in_float32(detector: Detector, dataset: CocoDataset, classes: Sequence[str]) -> Predictions:
    """Detections in the precision of `cora evaluate`: rounding to bfloat16 moves the AP of classes with two boxes."""
    return predict_dataset(Predictor(detector, precision="float32"), dataset, classes)


def compared(found: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    """Group -> [2, 1 + R] in 0..1: of images and mirror images (`measure`) the AP50, then that of every resample."""
    return {
        group: np.array([[one["ap50"][group], *one["resampled"][group]] for one in found], dtype=np.float64)
        for group in found[0]["ap50"]
    }


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
    measured = []
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        kinds = plain(sources, split.all, Path(first)), mirrored(sources, split.all, Path(second))
        for model in options.models:
            detector = cora.load(model).detector
            found = [measure(detector, kind, split, counts, groups=groups, predict=in_float32) for kind in kinds]
            measured.append(compared(found))
            print(f"{model}: measured", flush=True)
    print("\n".join(table([Path(model).name for model in options.models], measured)))


if __name__ == "__main__":
    main()
