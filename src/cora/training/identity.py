"""Hashes that identify the inputs of a run, and the seeds of its stages."""

from __future__ import annotations

import hashlib

import torch

from cora.data.coco import CocoDataset
from cora.regions.templates import shorten


def seed_stage(seed: int, name: str) -> None:
    """Seed torch for a stage, so that its numbers do not depend on earlier stages in the same process."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big"))


def about_boxes(dataset: CocoDataset) -> str:
    """What `boxes_hash` is of, for people."""
    counts = f"{int(dataset.class_counts().sum())} boxes in {len(dataset.records)} images"
    return f"{counts}, classes {shorten(', '.join(dataset.class_names), 200)}"


def boxes_hash(dataset: CocoDataset) -> str:
    """First 16 hex digits of the SHA-256 over class names, image names, boxes and labels."""
    digest = hashlib.sha256("\n".join(dataset.class_names).encode())
    for record in dataset.records:
        digest.update(record.path.name.encode())
        digest.update(record.boxes_xyxy_px.numpy().tobytes() + record.classes.numpy().tobytes())
    return digest.hexdigest()[:16]
