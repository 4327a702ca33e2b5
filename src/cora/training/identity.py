"""The seed of a stage, and the settings that must not change when it resumes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

#: Settings that earlier versions lacked, with the value that stands for their behaviour: (part, key, value).
_ADDED: tuple[tuple[str, str, Any], ...] = (
    ("localizer", "objectness", "keep"),
    ("localizer", "groups_file", None),
    ("localizer", "variant", "full"),
    ("localizer", "architecture", {}),
    ("localizer.task", "proposals", True),
    ("names", "prototypes", 0.0),
    ("prompts", "pool_size", None),
    ("data", "repeat_threshold", 0.001),
    ("data", "pseudo_weight", 1.0),
)


def seed_stage(seed: int, name: str) -> None:
    """Seed torch for a stage, so that its random numbers do not depend on earlier stages in the process."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big"))


def stage_settings(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings of a stage and of the data that must be the same when a run resumes, as "PART.KEY" -> value.

    Args:
        recipe: from `TrainRecipe.to_dict`; is changed.
        name: of the stage.
    """
    stage, data = recipe[name], recipe["data"]
    if stage["schedule"]["kind"] != "cosine":  # only the cosine depends on the number of epochs
        del stage["epochs"]
    if name == "localizer":  # `keep` acts after training, and no later stage starts from the result
        del stage["keep"]
    parts = {name: stage, f"{name}.task": stage.get("task", {}), "data": data}
    for part, key, default in _ADDED:
        settings = parts.get(part, {})
        if settings.get(key, ...) == default:
            del settings[key]  # so that runs of earlier versions resume
    for key in ("workers", "cache_gigabytes"):
        data.pop(key, None)
    return {f"{part}.{key}": value for part, own in (("data", data), (name, stage)) for key, value in own.items()}
