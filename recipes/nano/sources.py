"""The images that nano learns from, those that choices are made on, and the two stand-ins for judging.

Images come from the project's kit (not shipped) and from clones of public repositories, all of which `README.md` names:
`voc` (VOC2012 images and their boxes) and `nyu` (NYU Depth v2 images with masks of 40 classes; boxes are their
connected parts).
Nobody trains on `val.json`, on the stand-ins, or on the images that choices are made on.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

NYU_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag",
)  # fmt: skip
#: No objects, or none with a clear extent.
NYU_LEFT_OUT = ("wall", "floor", "ceiling", "counter", "floor mat", "clothes", "paper")
#: Names as VOC writes them, by COCO's names.
VOC_NAMES = {
    "airplane": "aeroplane", "bicycle": "bicycle", "bird": "bird", "boat": "boat", "bottle": "bottle", "bus": "bus",
    "car": "car", "cat": "cat", "chair": "chair", "cow": "cow", "dining table": "diningtable", "dog": "dog",
    "horse": "horse", "motorcycle": "motorbike", "person": "person", "potted plant": "pottedplant", "sheep": "sheep",
    "couch": "sofa", "train": "train", "tv": "tvmonitor",
}  # fmt: skip
#: NYU's frames follow each other through rooms, so whole stretches are held out, with a margin that nobody uses.
NYU_HELD_OUT, NYU_MARGIN = tuple(range(start, start + 20) for start in (100, 400, 700, 1000, 1300)), 5
SMALLEST_SHARE, SMALLEST_SIDE = 0.002, 16
#: The part that holds all images (`part_of`).
ALL = "0/1"


@dataclass(frozen=True)
class Source:
    """One image with its boxes.

    Attributes:
        key: "set/name", unique.
        path: the image.
        names: classes that are labelled in it; others may be there without a box.
        boxes_xyxy: [T, 4] in 0..1.
        labels: [T] int64, index into `names`.
        aspect: width of what is seen, divided by its height.
        window: part of the image that is seen, (left, top, right, bottom) in 0..1; the boxes are those of the window.
        scale: size at which it is seen, as a share of the model's.
        image_labels: classes that are in the image, without their places.
        all_boxes: whether every object of a base class has a box.
        object_centric: whether the image shows one object, in the middle.
    """

    key: str
    path: Path
    names: tuple[str, ...]
    boxes_xyxy: Tensor
    labels: Tensor
    aspect: float
    window: tuple[float, float, float, float] | None = None
    scale: float = 1.0
    image_labels: tuple[str, ...] = ()
    all_boxes: bool = False
    object_centric: bool = False


def coco(annotations: Path, folder: Path, name: str) -> list[Source]:
    """Images of a COCO file; crowds are left out."""
    content = json.loads(annotations.read_text())
    names = tuple(entry["name"] for entry in content["categories"])
    place = {entry["id"]: index for index, entry in enumerate(content["categories"])}
    boxes: dict[int, list[dict[str, object]]] = {}
    for box in content["annotations"]:
        if not box.get("iscrowd", 0):
            boxes.setdefault(box["image_id"], []).append(box)
    found = []
    for image in content["images"]:
        mine = boxes.get(image["id"], [])
        corners = torch.tensor([box["bbox"] for box in mine], dtype=torch.float32).view(-1, 4)
        corners = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
        size = torch.tensor([image["width"], image["height"]] * 2)
        labels = torch.tensor([place[box["category_id"]] for box in mine], dtype=torch.int64)
        key = f"{name}/{Path(image['file_name']).stem}"
        found.append(_checked(key, folder / image["file_name"], names, corners / size, labels, size))
    return found


def voc(images: Path, annotations: Path, known: set[str]) -> Iterator[Source]:
    """VOC2012 images with boxes, but not those named 2007_*, nor those that are known already."""
    written = {voc: name for name, voc in VOC_NAMES.items()}
    names = tuple(VOC_NAMES)
    for path in sorted(images.glob("2*.jpg")):
        xml = annotations / f"{path.stem}.xml"
        if path.stem.startswith("2007_") or path.stem in known or not xml.exists():
            continue
        root = ET.parse(xml).getroot()
        size = torch.tensor([float(root.findtext(f"size/{side}", "1")) for side in ("width", "height")] * 2)
        objects = [one for one in root.iter("object") if one.findtext("name") in written]
        sides = [[float(one.findtext(f"bndbox/{s}", "0")) for s in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
        labels = torch.tensor([names.index(written[str(one.findtext("name"))]) for one in objects], dtype=torch.int64)
        corners = torch.tensor(sides, dtype=torch.float32).view(-1, 4)
        yield _checked(f"voc/{path.stem}", path, names, corners / size, labels, size)


def nyu(folder: Path, numbers: Iterator[int] | range | list[int]) -> Iterator[Source]:
    """NYU images with a box around every connected part of a class; touching things of one class share a box."""
    kept = [name for name in NYU_NAMES if name not in NYU_LEFT_OUT]
    for number in numbers:
        mask = np.asarray(Image.open(folder / "nyu_labels40" / f"{number}.png"))
        height, width = mask.shape[:2]
        boxes, labels = [], []
        for label, name in enumerate(kept):
            parts, _ = ndimage.label(mask == NYU_NAMES.index(name))
            for index, place in enumerate(ndimage.find_objects(parts), start=1):
                rows, columns = place
                if (parts[place] == index).sum() < SMALLEST_SHARE * mask.size:
                    continue
                if min(rows.stop - rows.start, columns.stop - columns.start) < SMALLEST_SIDE:
                    continue
                boxes.append([columns.start / width, rows.start / height, columns.stop / width, rows.stop / height])
                labels.append(label)
        size = torch.tensor([width, height])
        path = folder / "nyu_images" / f"{number}.jpg"
        corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        yield _checked(f"nyu/{number}", path, tuple(kept), corners, torch.tensor(labels, dtype=torch.int64), size)


def nyu_numbers(part: str) -> list[int]:
    """Numbers of NYU's images: "standin" or "train"."""
    held = [number for block in NYU_HELD_OUT for number in block]
    if part == "standin":
        return held
    near = {number + step for number in held for step in range(-NYU_MARGIN, NYU_MARGIN + 1)}
    return [number for number in range(1449) if number not in near]


def voc_standin(sources: list[Source]) -> list[Source]:
    """150 images of `voc_more`, spread over it."""
    return sorted(sources, key=lambda one: one.key)[::10][:150]


def choice_images(sources: list[Source]) -> list[Source]:
    """Images of `coco_more` that choices are made on: every sixth."""
    return sorted(sources, key=lambda one: one.key)[::6]


def part_of(sources: list[Source], part: str) -> list[Source]:
    """The images of one of several processes that share them: "0/2" and "1/2" are every second one."""
    number, count = (int(text) for text in part.split("/"))
    return sources[number::count]


def as_coco(sources: list[Source], names: dict[str, str] | None = None) -> dict[str, Any]:
    """A COCO file of sources; `names` writes classes as a data set does."""
    written = names or {name: name for name in sources[0].names}
    classes = [name for name in sources[0].names if name in written]
    images, annotations = [], []
    for number, one in enumerate(sources, start=1):
        with Image.open(one.path) as image:
            width, height = image.size
        images.append({"id": number, "file_name": one.path.name, "width": width, "height": height})
        for box, label in zip(one.boxes_xyxy.tolist(), one.labels.tolist(), strict=True):
            name = one.names[label]
            if name in written:
                x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
                bbox = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": classes.index(name) + 1}
                annotations.append(entry | {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0})
    categories = [{"id": number, "name": written[name]} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _checked(key: str, path: Path, names: tuple[str, ...], boxes: Tensor, labels: Tensor, size: Tensor) -> Source:
    boxes = boxes.clamp(0, 1)
    good = (boxes[:, 2:] - boxes[:, :2]).amin(1) > 1e-3 if len(boxes) else torch.zeros(0, dtype=torch.bool)
    return Source(key, path, names, boxes[good], labels[good], float(size[0] / size[1]))


def everything(kit: Path, voc_folder: Path, nyu_folder: Path) -> dict[str, list[Source]]:
    """All images by what they are for.

    `coco`: all classes labelled; `partial`: base classes only, of images that have others, too; `nyu`, `voc`: for
    training. `choice`: choices are made on them. `voc_standin`, `nyu_standin`: judged on, as `val.json` is.
    """
    mini, more = kit / "coco_ovd_mini", kit / "coco_more"
    whole = coco(mini / "train_all.json", mini / "train", "mini")
    known = {one.key for one in whole}
    partial = [one for one in coco(mini / "train_base.json", mini / "train", "mini") if one.key not in known]
    found = coco(more / "all.json", more / "photos", "more")
    choice = choice_images(found)
    chosen = {one.key for one in choice}
    voc_more = [voc_classes(one) for one in coco(kit / "voc_more/all.json", kit / "voc_more/photos", "vocm")]
    standin = voc_standin(voc_more)
    held = {one.key for one in standin}
    others = voc(voc_folder / "images", voc_folder / "Annotations", {one.path.stem for one in voc_more})
    return {
        "coco": [one for one in found if one.key not in chosen] + whole,
        "partial": partial,
        "voc": [one for one in voc_more if one.key not in held] + list(others),
        "nyu": list(nyu(nyu_folder, nyu_numbers("train"))),
        "choice": choice,
        "voc_standin": standin,
        "nyu_standin": list(nyu(nyu_folder, nyu_numbers("standin"))),
    }


def base_only(kit: Path) -> dict[str, list[Source]]:
    """What the strict model learns from: the same images with boxes of the 48 base classes, and nothing else."""
    mini, more = kit / "coco_ovd_mini", kit / "coco_more"
    found = coco(more / "base.json", more / "photos", "more")
    chosen = {one.key for one in choice_images(found)}
    coco_images = [one for one in found if one.key not in chosen]
    coco_images += coco(mini / "train_base.json", mini / "train", "mini")
    voc_more = [voc_classes(one) for one in coco(kit / "voc_more/base.json", kit / "voc_more/photos", "vocm")]
    held = {one.key for one in voc_standin(voc_more)}
    return {
        "coco": [one for one in coco_images if len(one.labels)],
        "voc": [one for one in voc_more if one.key not in held and len(one.labels)],
        "choice": [one for one in found if one.key in chosen],
    }


def voc_classes(source: Source) -> Source:
    """The same image with those of VOC's classes that its file has; other things in it were never labelled."""
    names = tuple(name for name in VOC_NAMES if name in source.names)
    kept = [place for place, label in enumerate(source.labels.tolist()) if source.names[label] in names]
    labels = torch.tensor([names.index(source.names[int(source.labels[place])]) for place in kept], dtype=torch.int64)
    return replace(source, names=names, boxes_xyxy=source.boxes_xyxy[kept], labels=labels)
