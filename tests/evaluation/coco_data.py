"""Small synthetic COCO data, as dictionaries and as a folder."""

import json
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


def noisy_results(truth: dict[str, Any], *, seed: int = 0, extra: int = 3) -> list[dict[str, Any]]:
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
                "category_id": int(generator.integers(1, 4)) if wrong else a["category_id"],
                "bbox": [float(bbox[0]), float(bbox[1]), float(max(bbox[2], 1)), float(max(bbox[3], 1))],
                "score": float(generator.random()),
            }
        )
    for image in truth["images"]:
        for _ in range(extra):
            bbox = generator.uniform(5, 90, size=4).tolist()
            category = int(generator.integers(1, 4))
            score = float(generator.random())
            results.append({"image_id": image["id"], "category_id": category, "bbox": bbox, "score": score})
    return results


def write_folder(folder: Path, truth: dict[str, Any]) -> tuple[Path, Path]:
    """Write blank photos and the annotation file; returns (image folder, annotation file)."""
    images = folder / "images"
    images.mkdir(parents=True)
    for image in truth["images"]:
        Image.new("RGB", (image["width"], image["height"]), (128, 90, 60)).save(images / image["file_name"])
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(truth), encoding="utf-8")
    return images, annotations
