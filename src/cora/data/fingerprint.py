"""Hashes of the boxes and of the image files of a dataset, by which a run notices that its data changed."""

from __future__ import annotations

import hashlib

from cora.data.coco import CocoDataset
from cora.data.same_content import files_hash
from cora.regions.templates import shorten


def about_boxes(dataset: CocoDataset) -> str:
    """A description of what `boxes_hash` covers, for messages."""
    counts = f"{int(dataset.class_counts().sum())} boxes in {len(dataset.records)} images"
    return f"{counts}, classes {shorten(', '.join(dataset.class_names), 200)}"


def about_data(dataset: CocoDataset, images: str | None = None) -> dict[str, str]:
    """What a run stores about its boxes and images: their hashes, and a description of each for messages.

    Args:
        dataset: annotated images.
        images: their `images_hash`, if it is known already; computing it reads every file.
    """
    return {
        "boxes": boxes_hash(dataset),
        "about boxes": about_boxes(dataset),
        "images": images or images_hash(dataset),
        "about images": f"{len(dataset.records)} files",
    }


def images_hash(dataset: CocoDataset) -> str:
    """`files_hash` of the images."""
    return files_hash(record.path for record in dataset.records)


def boxes_hash(dataset: CocoDataset) -> str:
    """First 16 hex digits of the SHA-256 over class names, image names, boxes and labels."""
    digest = hashlib.sha256("\n".join(dataset.class_names).encode())
    for record in dataset.records:
        digest.update(record.path.name.encode())
        digest.update(record.boxes_xyxy_px.numpy().tobytes() + record.classes.numpy().tobytes())
    return digest.hexdigest()[:16]
