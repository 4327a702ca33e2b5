"""A grid of images with nano's boxes: all 65 names asked at once, the model's own score threshold, nothing chosen.

    python -m recipes.nano.grid --images KIT/coco_ovd_mini/val --annotations KIT/coco_ovd_mini/val.json \
        --output docs/images/grid.jpg

Shows every image whose licence lets it be shown with a credit (COCO's licences 4, CC BY 2.0, and 7, no known copyright
restrictions), filled up to 40 by the first ones of licence 5, CC BY-SA 2.0. The grid is therefore under CC BY-SA 2.0.
Prints a credit line for each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

import cora
from cora.draw import class_colours, contact_sheet, draw_boxes
from cora.structures import Detections

COUNT = 40
FREE, SHARE_ALIKE = (4, 7), 5
SIDE = 260


def shown_images(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the images that may be shown, in the order of their ids."""
    free = [record for record in records if record.get("license") in FREE]
    alike = [record for record in records if record.get("license") == SHARE_ALIKE]
    fill = sorted(alike, key=lambda record: record["id"])[: max(0, COUNT - len(free))]
    return sorted([*free[:COUNT], *fill], key=lambda record: record["id"])


def thumbnail(found: Detections) -> Image.Image:
    """The image with its boxes, longer side SIDE: drawn after resizing, so that names stay readable."""
    image = found.image
    assert image is not None  # that of one image is kept
    factor = SIDE / max(image.size)
    small = image.resize((round(image.width * factor), round(image.height * factor)))
    colours = class_colours(found.class_names)
    drawn_in = [colours[name] for name in found.names]
    return draw_boxes(small, found.boxes_xyxy_px * factor, found.names, found.scores, colours=drawn_in)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    annotations = json.loads(arguments.annotations.read_text(encoding="utf-8"))
    names = [category["name"] for category in annotations["categories"]]
    records = shown_images(annotations["images"])
    paths = [arguments.images / record["file_name"] for record in records]
    detector = cora.load(arguments.model)
    vocabulary = detector.vocabulary(names)
    thumbnails = (thumbnail(detector.predict(path, vocabulary)) for path in paths)
    sheet = contact_sheet(thumbnails, [path.stem.lstrip("0") for path in paths], columns=8, cell_px=SIDE)
    sheet.save(arguments.output, quality=82)
    for record in records:
        licence = next(one["name"] for one in annotations["licenses"] if one["id"] == record["license"])
        print(f"| {record['file_name']} | {record['flickr_url']} | {licence} |")


if __name__ == "__main__":
    main()
