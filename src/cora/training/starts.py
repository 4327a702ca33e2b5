"""Where training starts from, apart from the weights of its model."""

from __future__ import annotations

import torch
from torch import nn

from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.errors import TrainingError
from cora.localizer import LearnedAnchors, Localizer, kmeans_anchors
from cora.regions import FastAlignment
from cora.training.identity import seed_stage
from cora.training.recipe import LocalizerStage, TrainRecipe


def start_fresh(detector: Detector, recipe: TrainRecipe) -> None:
    """Replace what a run trains by new weights, which depend on its seed only.

    Args:
        detector: changed in place.
        recipe: of the run.
    """
    seed_stage(recipe.seed, "fresh")
    if recipe.prompts is not None:
        nn.init.zeros_(detector.prompt.offset)
    if recipe.localizer is not None:
        fresh_localizer(detector, proposals=recipe.localizer.task.proposals)
    if detector.fast_alignment is not None:
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


def fresh_localizer(detector: Detector, *, proposals: bool) -> None:
    """Draw the weights of the localizer anew; without `proposals`, those that anchors are proposed by stay."""
    old, new = detector.localizer, Localizer.from_config(detector.config.localizer).to(detector.device)
    if not proposals:
        for fresh, kept in zip(new.proposing, old.proposing, strict=True):
            fresh.load_state_dict(kept.state_dict())
    detector.localizer = new


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
        anchors = _learned_anchors(detector, stage.anchors)
        if stage.anchors == "normal":
            anchors.draw()
        else:
            anchors_to_boxes(anchors, dataset)
    if stage.objectness == "plain":
        detector.localizer.objectness_head.reset_parameters()


def _learned_anchors(detector: Detector, start: str) -> LearnedAnchors:
    anchors = detector.localizer.learned_anchors
    if anchors is None:
        raise TrainingError(f"anchors {start!r} are for models with learned anchors, got one that proposes them")
    return anchors


def anchors_to_boxes(anchors: LearnedAnchors, dataset: CocoDataset) -> None:
    """Put the anchors where boxes of the images, and of their mirror images, crowd."""
    boxes = torch.cat([targets_of(record).boxes_cxcywh for record in dataset.records])
    mirrored = boxes * boxes.new_tensor([-1, 1, 1, 1]) + boxes.new_tensor([1, 0, 0, 0])
    anchors.start_from(kmeans_anchors(torch.cat([boxes, mirrored]), len(anchors.logits)))
