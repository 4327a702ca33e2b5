"""Default recipes. They depend on the model's image size and, for fine-tuning, on the number of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from cora.data.transforms import AugmentConfig
from cora.training.denoising import DenoisingConfig
from cora.training.localizer_task import LocalizerTaskConfig
from cora.training.recipe import (
    DataStage,
    LocalizerStage,
    NamesStage,
    PromptStage,
    ProposalStage,
    RelabelStage,
    StageSchedule,
    TrainRecipe,
)

#: Models whose images have a shorter short side get the recipe of nano: a feature cache, and denoising for few images.
SMALL_SIDE_PX = 512
#: Steps of fine-tuning, and the smallest and largest number of epochs.
FINETUNE_STEPS = 1200
FINETUNE_EPOCHS = (12, 120)
#: The same for a model with a box trunk. Trunk and proposals are trained first, so the decoder needs fewer steps.
TRUNK_STEPS, DECODER_STEPS = 240, 180
TRUNK_EPOCHS = (3, 80)

_COSINE = StageSchedule(kind="cosine", warmup_steps=50)

#: Prompt stage and localizer task of models with small images; denoising and repeated targets help with few images.
SMALL_PROMPTS = PromptStage(
    epochs=16,
    batch=16,
    lr=2e-3,
    schedule=StageSchedule(kind="cosine", warmup_steps=100),
    balance="sqrt",
    grad_clip=0.5,
)
SMALL_TASK = LocalizerTaskConfig(
    class_dropout=0.2, denoising=DenoisingConfig(groups=5, box_noise=0.6, max_queries=60), target_repeats=3
)


#: The published hyper-parameters (CORA, arXiv 2303.13076, and its code): 4 images in each of 8 processes.
PUBLISHED_AUGMENT = AugmentConfig(
    short_sides=tuple(range(480, 801, 32)),
    long_side=1333,
    flip=0.5,
    crop=0.5,
    crop_short_sides=(400, 500, 600),
    crop_sides=(384, 600),
)
PUBLISHED_PROMPTS = PromptStage(
    epochs=5, batch=4, lr=1e-4, weight_decay=1e-4, schedule=StageSchedule(kind="step", milestones=(4,))
)
PUBLISHED_LOCALIZER = LocalizerStage(
    epochs=35,
    batch=4,
    lr=1e-4,
    weight_decay=1e-4,
    grad_clip=0.1,
    ema=0.99996,
    task=LocalizerTaskConfig(class_dropout=0.2),
    anchors="normal",
    objectness="plain",
)
#: Number of processes of the published training.
PUBLISHED_PROCESSES = 8


def published_recipe(model: str, *, published: Mapping[str, float] | None = None) -> TrainRecipe:
    """The published training on OV-COCO: region prompt, relabelling, localizer.

    Args:
        model: name or path of the detector to start from.
        published: published metrics, see `TrainRecipe`.
    """
    return TrainRecipe(
        model=model,
        data=DataStage(augment=PUBLISHED_AUGMENT, workers=4),
        prompts=PUBLISHED_PROMPTS,
        relabel=RelabelStage(plot=True),
        localizer=PUBLISHED_LOCALIZER,
        evaluate_every=5,
        all_boxes=True,
        processes=PUBLISHED_PROCESSES,
        published=published or {},
    )


def default_recipe(model: str, *, short_side: int) -> TrainRecipe:
    """The published hyper-parameters for models with large images, those of nano for models with small ones.

    Args:
        model: name or path of the detector to start from.
        short_side: short side of a 4:3 image after the model's resizing, in pixels; below 512 counts as small.

    Examples:
        >>> from cora.training.override import override
        >>> recipe = override(default_recipe("nano", short_side=384), ["localizer.epochs=3", "relabel=None"])
        >>> recipe.localizer.epochs, recipe.localizer.batch, recipe.relabel
        (3, 4, None)
    """
    if short_side >= SMALL_SIDE_PX:
        return TrainRecipe(model=model)
    return TrainRecipe(
        model=model,
        data=DataStage(augment=small_augment(short_side), versions=2),
        prompts=replace(SMALL_PROMPTS, schedule=_COSINE),
        localizer=LocalizerStage(
            epochs=8,
            batch=4,
            lr=4e-4,
            schedule=_COSINE,
            grad_clip=0.5,
            ema=0.998,
            task=SMALL_TASK,
        ),
    )


def finetune_recipe(model: str, *, short_side: int, photos: int, trunk: bool = False) -> TrainRecipe:
    """Recipe to fine-tune a trained model on a small dataset; the prompt stays frozen.

    The stages are: proposals, with the box trunk (only if the model has one); class names; localizer.

    Args:
        model: name or path of the detector to start from.
        short_side: short side of the images after the model's resizing, in pixels.
        photos: number of training images. It sets the epochs, so that the localizer has about `FINETUNE_STEPS` steps,
            or `DECODER_STEPS` after `TRUNK_STEPS` of a model with a box trunk.
        trunk: whether the model's tower has a box trunk.
    """
    batch = max(1, min(4, photos))
    steps_an_epoch = max(1, photos // batch)

    def epochs_of(steps: int, least: int, most: int) -> int:
        return min(max(ceil(steps / steps_an_epoch), least), most)

    epochs = epochs_of(DECODER_STEPS, *TRUNK_EPOCHS) if trunk else epochs_of(FINETUNE_STEPS, *FINETUNE_EPOCHS)
    return TrainRecipe(
        model=model,
        data=DataStage(augment=small_augment(short_side), versions=2 if trunk else 4),
        prompts=None,
        proposals=ProposalStage(
            epochs=epochs_of(TRUNK_STEPS, *TRUNK_EPOCHS),
            batch=batch,
            lr=1e-3,
            weight_decay=1e-2,
            schedule=StageSchedule(kind="cosine", warmup_steps=30),
            grad_clip=1.0,
            ema=0.99,
        )
        if trunk
        else None,
        names=NamesStage(
            epochs=max(4, min(30, ceil(200 / steps_an_epoch))),
            batch=batch,
            lr=2e-3,
            weight_decay=0.0,
            schedule=StageSchedule(kind="cosine", warmup_steps=10),
            grad_clip=None,
        ),
        relabel=None,
        localizer=LocalizerStage(
            epochs=epochs,
            batch=batch,
            lr=2e-4,
            schedule=_COSINE,
            grad_clip=0.5,
            ema=0.998,
            task=replace(SMALL_TASK, class_dropout=0.0),
        ),
        evaluate_every=epochs,
    )


def small_augment(short_side: int) -> AugmentConfig:
    """Augmentation by scales, flips and crops for a model whose images have this short side, in pixels."""

    def sides(*factors: float) -> tuple[int, ...]:
        return tuple(round(short_side * factor) for factor in factors)

    least, greatest = sides(0.75, 1.2)
    return AugmentConfig(
        short_sides=sides(0.7, 0.8, 0.9, 1.0),
        long_side=round(short_side * 5 / 3),
        crop=0.4,
        crop_short_sides=sides(1.05, 1.25),
        crop_sides=(least, greatest),
        min_box_side=4.0,
        min_visible=0.3,
    )
