"""Initialises parts of the detector before training: fresh weights, pool size, anchors, objectness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.errors import ModelError, TrainingError
from cora.localizer import LearnedAnchors, Localizer, kmeans_anchors
from cora.regions import FastAlignment
from cora.training.identity import seed_stage
from cora.training.recipe import LocalizerStage, TrainRecipe

#: Fields that `LocalizerStage.architecture` may change; the others depend on the tower.
LOCALIZER_SIZES = (
    *("dec_layers", "cross_attention", "num_queries", "dim", "heads", "head_dim", "ff", "enc_layers"),
    *("class_hidden", "dropout", "refinement"),
)
NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


def start_fresh(detector: Detector, recipe: TrainRecipe) -> None:
    """Draw new weights for the parts that a fresh run trains, and for a localizer whose architecture changes.

    They depend on the seed of the run only.

    Args:
        detector: changed in place.
        recipe: recipe of the run.

    Raises:
        TrainingError: the architecture is invalid, see `fresh_localizer`.
    """
    seed_stage(recipe.seed, "fresh")
    if recipe.fresh and recipe.prompts is not None:
        nn.init.zeros_(detector.prompt.offset)
    stage = recipe.localizer
    if stage is not None and (recipe.fresh or stage.architecture):
        fresh_localizer(detector, proposals=stage.task.proposals, architecture=stage.architecture)
    if recipe.fresh and detector.fast_alignment is not None:
        detector.align_fast_pooling(FastAlignment(embed_dim=detector.config.tower.embed_dim))


def change_pool_size(detector: Detector, recipe: TrainRecipe) -> str | None:
    """Set the detector's pool size to that of the prompt stage.

    Args:
        detector: changed in place.
        recipe: recipe of the run.

    Returns:
        A message for the user; None if nothing changed.

    Raises:
        ModelError: the detector does not support this pool size.
    """
    size, own = recipe.prompts.pool_size if recipe.prompts is not None else None, detector.image_tower.pool_size
    if size is None or size == own:
        return None
    detector.set_pool_size(size)
    prompt = "starts from zero" if recipe.fresh else "is resampled"
    message = f"Regions are pooled to {size} x {size} cells, before to {own} x {own}; the region prompt {prompt}"
    if detector.fast_alignment is None:
        return message
    when = "at the end of the localizer's training" if recipe.localizer is not None else "by 'cora align'"
    return f"{message}. The fast alignment was fitted for the old cells and is set to zero; it is fitted again {when}"


def fresh_localizer(detector: Detector, *, proposals: bool, architecture: Mapping[str, Any] = NO_CHANGES) -> None:
    """Replace the localizer by one with new weights.

    Args:
        detector: changed in place.
        proposals: also draw new weights for the modules that propose the anchors; else copy them.
        architecture: fields to replace in its `LocalizerConfig`.

    Raises:
        TrainingError: an unknown or invalid size, or one that does not fit the copied proposals.
    """
    if unknown := [key for key in architecture if key not in LOCALIZER_SIZES]:
        raise TrainingError(
            f"localizer.architecture: unknown size {unknown[0]!r}; expected one of {', '.join(LOCALIZER_SIZES)}"
        )
    try:
        config = replace(detector.config.localizer, **architecture)
    except (ModelError, TypeError) as error:
        raise TrainingError(f"localizer.architecture: {error}") from error
    old, new = detector.localizer, Localizer.from_config(config).to(detector.device)
    if not proposals:
        for fresh, kept in zip(new.proposing, old.proposing, strict=True):
            try:
                fresh.load_state_dict(kept.state_dict())
            except RuntimeError as error:
                raise TrainingError(
                    "localizer.architecture: expected the sizes of the proposals, which stay as they are, got others; "
                    "leave dim and enc_layers, or set localizer.task.proposals=True"
                ) from error
    detector.localizer = new
    detector.config = replace(detector.config, localizer=config)


def start_localizer(detector: Detector, dataset: CocoDataset, stage: LocalizerStage, *, seed: int) -> None:
    """Initialise anchors and objectness head as the stage says; the result depends on the seed only.

    Args:
        detector: changed in place.
        dataset: boxes for anchors by k-means.
        stage: its `anchors` and `objectness` are used, see `LocalizerStage`.
        seed: of the run.

    Raises:
        TrainingError: the stage sets anchors, but the model proposes its anchors.
    """
    seed_stage(seed, "start")
    if stage.anchors != "keep":
        anchors = detector.localizer.learned_anchors
        if anchors is None:
            raise TrainingError(
                f"anchors {stage.anchors!r} are for models with learned anchors, got one that proposes them"
            )
        if stage.anchors == "normal":
            anchors.draw()
        else:
            anchors_to_boxes(anchors, dataset)
    if stage.objectness == "plain":
        detector.localizer.objectness_head.reset_parameters()


def anchors_to_boxes(anchors: LearnedAnchors, dataset: CocoDataset) -> None:
    """Set the anchors to k-means centres of the dataset's boxes and their mirror images."""
    boxes = torch.cat([targets_of(record).boxes_cxcywh for record in dataset.records])
    mirrored = boxes * boxes.new_tensor([-1, 1, 1, 1]) + boxes.new_tensor([1, 0, 0, 0])
    anchors.start_from(kmeans_anchors(torch.cat([boxes, mirrored]), len(anchors.logits)))
