"""OV-LVIS with CLIP RN50x4, the published hyper-parameters: 866 frequent and common classes, 337 rare ones novel.

    cora train all recipes/ov_lvis_rn50x4.py --images train2017 --annotations lvis_v1_train.json --split lvis \\
        --val-images val2017 --val-annotations lvis_v1_val.json --every 5 --processes 8 --run runs/ov_lvis_rn50x4

What LVIS needs beside COCO's: photos of rare classes repeated (threshold 0.001), classes drawn with equal weight for
the prompt, 100 classes a step, and queries that may match a box of a similar class (cosine above 0.7).

Published (with extra data, CORA+): 28.1 APr. Not run here yet: it needs GPUs and CLIP's weights.
"""

from cora.data.transforms import AugmentConfig
from cora.training.localizer_task import LocalizerTaskConfig
from cora.training.recipe import DataStage, LocalizerStage, PromptStage, RelabelStage, StageSchedule, TrainRecipe


def recipe() -> TrainRecipe:
    """The whole run: 5 epochs of prompts, labels by the prompted classifier, 35 epochs of the localizer."""
    return TrainRecipe(
        model="RN50x4-quickgelu",
        data=DataStage(
            augment=AugmentConfig(
                short_sides=tuple(range(480, 801, 32)),
                long_side=1333,
                flip=0.5,
                crop=0.5,
                crop_short_sides=(400, 500, 600),
                crop_sides=(384, 600),
            ),
            sampling="repeat-factor",
            workers=4,
        ),
        prompts=PromptStage(
            epochs=5,
            batch=4,
            lr=1e-4,
            weight_decay=1e-4,
            schedule=StageSchedule(kind="step", milestones=(4,)),
            balance="equal",
            max_boxes=64,
            classes_per_step=100,
        ),
        relabel=RelabelStage(),
        localizer=LocalizerStage(
            epochs=35,
            batch=4,
            lr=1e-4,
            weight_decay=1e-4,
            grad_clip=0.1,
            ema=0.99996,
            task=LocalizerTaskConfig(class_dropout=0.2, classes_per_step=100, relaxed_cosine=0.7),
            anchors="keep",
        ),
        evaluate_every=5,
    )
