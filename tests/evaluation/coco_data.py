"""Small synthetic COCO data, as dictionaries and as a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"cat": 1, "dog": 2, "bus": 3}
SIDE = 200


def ground_truth(*, seed: int = 0, images: int = 12, boxes: int = 4, crowds: bool = True) -> dict[str, Any]:
    """Random boxes of three classes; some images are empty, some boxes are crowds."""
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(10, 10 + images):
        for _ in range(int(generator.integers(0, boxes + 1))):
            x, y = generator.uniform(0, 100, size=2).tolist()
            w, h = generator.uniform(10, 90, size=2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(generator.integers(1, 4)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowds and generator.random() < 0.15),
                }
            )
    return {
        "images": [
            {"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i:06}.png"} for i in range(10, 10 + images)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in CLASSES.items()],
    }


def perfect_results(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Every box that is no crowd, with score 1."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]


def noisy_results(
    truth: dict[str, Any], *, seed: int = 0, extra: int = 3, categories: Sequence[int] = (1, 2, 3)
) -> list[dict[str, Any]]:
    """Shifted boxes, some of a wrong class, and false alarms; no two scores are equal."""
    generator = np.random.default_rng(seed)
    results = []
    for a in truth["annotations"]:
        shift = generator.normal(0, 0.12, size=4) * a["bbox"][2]
        wrong = generator.random() < 0.2
        bbox = [*(np.array(a["bbox"]) + shift)]
        results.append(
            {
                "image_id": a["image_id"],
                "category_id": int(generator.choice(categories)) if wrong else a["category_id"],
                "bbox": [float(bbox[0]), float(bbox[1]), float(max(bbox[2], 1)), float(max(bbox[3], 1))],
                "score": float(generator.random()),
            }
        )
    for image in truth["images"]:
        for _ in range(extra):
            bbox = generator.uniform(5, 90, size=4).tolist()
            category = int(generator.choice(categories))
            score = float(generator.random())
            results.append({"image_id": image["id"], "category_id": category, "bbox": bbox, "score": score})
    return results


def write_folder(folder: Path, truth: dict[str, Any]) -> tuple[Path, Path]:
    """Write blank images and the annotation file; returns (image folder, annotation file)."""
    images = folder / "images"
    images.mkdir(parents=True)
    for image in truth["images"]:
        Image.new("RGB", (image["width"], image["height"]), (128, 90, 60)).save(images / image["file_name"])
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(truth), encoding="utf-8")
    return images, annotations


def write_noise(folder: Path, *, images: int = 7, seed: int = 0) -> tuple[Path, Path]:
    """Images of noise in two sizes, without boxes; returns (image folder, annotation file)."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    entries = []
    for number in range(1, images + 1):
        height, width = ((64, 100), (120, 80))[int(generator.integers(2))]
        coarse = generator.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / "images" / f"{number}.png")
        entries.append({"id": number, "width": width, "height": height, "file_name": f"{number}.png"})
    categories = [{"id": number, "name": name} for name, number in CLASSES.items()]
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps({"images": entries, "annotations": [], "categories": categories}))
    return folder / "images", annotations


def truth_near(results: Sequence[dict[str, Any]], annotations: Path) -> dict[str, Any]:
    """Some results that lie apart from each other, a little narrower, as ground truth of the images of `write_noise`.

    Also written to the file.
    """
    truth = json.loads(annotations.read_text(encoding="utf-8"))
    for result in results:
        x, y, width, height = result["bbox"]
        box = {"image_id": result["image_id"], "bbox": [x, y, max(0.9 * width, 1), max(height, 1)]}
        if any(_touch(box, other) for other in truth["annotations"]):
            continue
        area = box["bbox"][2] * box["bbox"][3]
        others = {"category_id": result["category_id"], "area": area, "iscrowd": 0}
        truth["annotations"].append({"id": len(truth["annotations"]) + 1, **box, **others})
    annotations.write_text(json.dumps(truth), encoding="utf-8")
    return truth


def _touch(one: dict[str, Any], other: dict[str, Any]) -> bool:
    (x, y, w, h), (u, v, a, b) = one["bbox"], other["bbox"]
    return one["image_id"] == other["image_id"] and x < u + a and u < x + w and y < v + b and v < y + h
