"""What identifies a run: hashes of its inputs, settings and seeds of its stages."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from cora.data.coco import CocoDataset
from cora.regions.templates import shorten

#: Settings that came later, and what was meant before: (part, key, value).
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("localizer", "objectness", "keep"),
    ("localizer", "groups_file", None),
    ("localizer", "variant", "full"),
    ("localizer", "architecture", {}),
    ("localizer.task", "proposals", True),
    ("names", "prototypes", 0.0),
    ("prompts", "pool_size", None),
    ("data", "repeat_threshold", 0.001),
)


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


def stage_settings(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings of a stage and of the data as "PART.KEY", without those that may differ when a run resumes.

    Args:
        recipe: of `TrainRecipe.to_dict`; is changed.
        name: of the stage.
    """
    stage, data = recipe[name], recipe["data"]
    if stage["schedule"]["kind"] != "cosine":
        del stage["epochs"]
    if name == "localizer":  # nothing is trained after it
        del stage["keep"]
    parts = {name: stage, f"{name}.task": stage.get("task", {}), "data": data}
    for part, key, default in _LATER:
        settings = parts.get(part, {})
        if settings.get(key, ...) == default:
            del settings[key]  # runs of versions that did not know it resume
    for key in ("workers", "cache_gigabytes"):
        data.pop(key, None)
    return {f"{part}.{key}": value for part, own in (("data", data), (name, stage)) for key, value in own.items()}
