"""The images with image labels that the strict model's names learn from.

`voc`, `caltech` and `flickr` are folders of clones of public repositories, which `README.md` names: VOC2012, the folder
`101_ObjectCategories` of Caltech-101, and Flickr8k with `captions.txt`.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from sources import Source, base_only, choice_images, coco, voc, voc_classes, voc_standin

#: Categories of Caltech-101 that show novel classes.
CALTECH = {
    "airplanes": "airplane", "cup": "cup", "dalmatian": "dog", "elephant": "elephant", "scissors": "scissors",
    "umbrella": "umbrella", "wild_cat": "cat",
}  # fmt: skip
#: Words of captions that mean a novel class.
WORDS = {
    "airplane": r"(air)?planes?|jet", "bus": r"bus(es)?", "cat": r"cats?|kittens?", "dog": r"dogs?|pupp(y|ies)",
    "cow": r"cows?|cattle|bulls?", "elephant": r"elephants?", "umbrella": r"umbrellas?", "tie": r"(neck)?ties?",
    "snowboard": r"snowboards?", "skateboard": r"skateboards?", "cup": r"cups?|mugs?", "knife": r"knife|knives",
    "cake": r"(cup)?cakes?", "couch": r"couch(es)?|sofas?", "keyboard": r"keyboards?", "sink": r"sinks?",
    "scissors": r"scissors",
}  # fmt: skip
#: Captions of five that must name a class; images of a category that count; every so manieth image of dogs alone.
AGREEING, MOST, DOGS = 2, 150, 5
#: Flickr8k's images were squashed to squares; most had this shape.
FLICKR_ASPECT = 4 / 3


def image_labelled(kit: Path, voc_folder: Path, caltech_folder: Path, flickr_folder: Path) -> list[Source]:
    """All images, with their boxes of base classes and their image labels of any class.

    Image labels of `coco_more` (80 classes), `voc_more` and VOC2012 (20 classes) come from the files of boxes; of
    boxes of other than base classes nothing else is read. Held-out images are left out.
    """
    groups = base_only(kit)
    more, voc_more = kit / "coco_more", kit / "voc_more"
    found = coco(more / "all.json", more / "photos", "more")
    held = {one.key for one in choice_images(found)}
    whole = {one.key: replace(_labels_only(one), all_boxes=True) for one in found if one.key not in held}
    for one in groups["coco"]:
        labels = whole[one.key].image_labels if one.key in whole else ()
        whole[one.key] = replace(one, image_labels=labels, all_boxes=True)
    pascal = [voc_classes(one) for one in coco(voc_more / "all.json", voc_more / "photos", "vocm")]
    held = {one.key for one in voc_standin(pascal)}
    others = voc(voc_folder / "images", voc_folder / "Annotations", {one.path.stem for one in pascal})
    partial = {one.key: _labels_only(one) for one in [*pascal, *others] if one.key not in held}
    for one in groups["voc"]:
        partial[one.key] = replace(one, image_labels=partial[one.key].image_labels)
    return [*whole.values(), *partial.values(), *caltech(caltech_folder), *flickr(flickr_folder)]


def caltech(folder: Path) -> list[Source]:
    """Images of Caltech-101 that show a novel class; of the largest category the first ones."""
    return [
        replace(_unlabelled(f"caltech/{category}_{path.stem}", path), image_labels=(name,), object_centric=True)
        for category, name in CALTECH.items()
        for path in sorted((folder / category).glob("*.jpg"))[:MOST]
    ]


def flickr(folder: Path) -> list[Source]:
    """Images of Flickr8k in which two captions or more name a novel class; they show many dogs, so not all of those."""
    captions: dict[str, list[str]] = defaultdict(list)
    with (folder / "captions.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"].lower())
    found, dogs = [], 0
    for name, texts in sorted(captions.items()):
        path = folder / "images" / name
        labels = tuple(
            novel
            for novel, words in WORDS.items()
            if sum(re.search(rf"\b({words})\b", text) is not None for text in texts) >= AGREEING
        )
        if not labels or not path.exists():
            continue
        dogs += labels == ("dog",)
        if labels != ("dog",) or dogs % DOGS == 0:
            found.append(replace(_unlabelled(f"flickr/{path.stem}", path, FLICKR_ASPECT), image_labels=labels))
    return found


def _unlabelled(key: str, path: Path, aspect: float | None = None) -> Source:
    """An image without boxes; with an aspect, its shape is that instead of the file's."""
    if aspect is None:
        with Image.open(path) as image:
            aspect = image.width / image.height
    return Source(key, path, (), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), aspect)


def _labels_only(source: Source) -> Source:
    """The image without boxes; what they say of the whole image stays."""
    labels = tuple(sorted({source.names[label] for label in source.labels.tolist()}))
    return replace(source, boxes_xyxy=source.boxes_xyxy[:0], labels=source.labels[:0], image_labels=labels)
