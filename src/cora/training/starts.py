"""Where training starts from, apart from the weights of its model."""

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

#: What `LocalizerStage.architecture` may change; the other sizes are the tower's.
LOCALIZER_SIZES = (
    *("dec_layers", "cross_attention", "num_queries", "dim", "heads", "head_dim", "ff", "enc_layers"),
    *("class_hidden", "dropout"),
)
NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


def start_fresh(detector: Detector, recipe: TrainRecipe) -> None:
    """Replace what a fresh run trains by new weights, and a localizer of another architecture in any run.

    The weights depend on the run's seed only.

    Args:
        detector: changed in place.
        recipe: of the run.

    Raises:
        TrainingError: an architecture that does not fit, see `fresh_localizer`.
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
    """Pool regions to the grid that the prompt's stage asks for.

    Args:
        detector: changed in place.
        recipe: of the run.

    Returns:
        What changed, for people; None for nothing.

    Raises:
        ModelError: the detector cannot be changed to this grid.
    """
    size, own = recipe.prompts.pool_size if recipe.prompts is not None else None, detector.image_tower.pool_size
    if size is None or size == own:
        return None
    detector.set_pool_size(size)
    prompt = "starts from zero" if recipe.fresh else "is resampled"
    said = f"Regions are pooled to {size} x {size} cells, before to {own} x {own}; the region prompt {prompt}"
    if detector.fast_alignment is None:
        return said
    again = "at the end of the localizer's training" if recipe.localizer is not None else "by 'cora align'"
    return f"{said}. The fast alignment was fitted for the old cells and is set to zero; it is fitted again {again}"


def fresh_localizer(detector: Detector, *, proposals: bool, architecture: Mapping[str, Any] = NO_CHANGES) -> None:
    """Draw the weights of the localizer anew.

    Args:
        detector: changed in place.
        proposals: also of the parts that propose the anchors; else these stay.
        architecture: changes of its `LocalizerConfig`.

    Raises:
        TrainingError: an unknown or impossible size, or one that the proposals, which stay, do not have.
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
    """Set anchors and objectness as a stage wants them, the same for a seed.

    Args:
        detector: changed in place.
        dataset: whose boxes anchors of k-means are taken from.
        stage: says how, see `LocalizerStage`.
        seed: of the run.

    Raises:
        TrainingError: the stage starts anchors that the model does not have.
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
    """Put the anchors where boxes of the images, and of their mirror images, crowd."""
    boxes = torch.cat([targets_of(record).boxes_cxcywh for record in dataset.records])
    mirrored = boxes * boxes.new_tensor([-1, 1, 1, 1]) + boxes.new_tensor([1, 0, 0, 0])
    anchors.start_from(kmeans_anchors(torch.cat([boxes, mirrored]), len(anchors.logits)))
