"""What identifies a stage of a run: its settings and its seed."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

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
