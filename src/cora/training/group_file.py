"""Groups of similar classes for matching: computed, or read from a file of `cora groups` or of the published code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from cora.data.coco import CocoDataset
from cora.data.problems import listed
from cora.errors import TrainingError
from cora.names import spelled_as
from cora.regions import Vocabulary
from cora.regions.groups import class_groups
from cora.towers.weights import why_unreadable
from cora.training.recipe import LocalizerStage


def stage_groups(stage: LocalizerStage, dataset: CocoDataset, vocabulary: Vocabulary) -> list[int] | None:
    """Group of every class, in the vocabulary's order; None if the stage has no groups.

    Raises:
        TrainingError: the stage's file cannot be read, or lacks classes.
    """
    if stage.groups_file is not None:
        return read_groups(Path(stage.groups_file), dataset)
    if stage.groups is None:
        return None
    found = class_groups(vocabulary, stage.groups)
    return [found[name] for name in vocabulary.names]


def read_groups(path: Path, dataset: CocoDataset) -> list[int]:
    """Group of every class of a dataset, in its order, from a file.

    Args:
        path: JSON file of `cora groups --json`, or with {class name: group}; or a .pth file of the published
            cluster_classes.py, with {category id: group}, where ids start from 1.
        dataset: its class names and category ids are used.

    Raises:
        TrainingError: the file cannot be read, has another content, or lacks classes.
    """
    content = _read(path)
    if isinstance(content, Mapping) and isinstance(content.get("groups"), Mapping):
        content = content["groups"]
    if not isinstance(content, Mapping) or not content or not all(type(group) is int for group in content.values()):
        raise TrainingError(f"{path}: expected groups by class name, or by category id, got other content")
    if all(type(key) is int for key in content):
        by_name = {name: content.get(number) for name, number in dataset.category_ids.items()}
    else:
        spelled = spelled_as(dataset.class_names, [str(key) for key in content])
        by_name = {name: content.get(spelled.get(name, "")) for name in dataset.class_names}
    found = [by_name.get(name) for name in dataset.class_names]
    missing = [name for name, group in zip(dataset.class_names, found, strict=True) if group is None]
    if missing:
        raise TrainingError(
            f"{path}: expected a group of each of {len(found)} classes, got {len(missing)} without: {listed(missing)}"
        )
    return [group for group in found if group is not None]


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path}: expected a file of class groups (.json, or .pth), could not read it ({why_unreadable(error)})"
        ) from error
