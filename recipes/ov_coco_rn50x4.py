"""OV-COCO with CLIP RN50x4, the published hyper-parameters: those of RN50 with the larger tower.

    cora train all recipes/ov_coco_rn50x4.py --images train2017 --annotations instances_train2017.json --split coco \\
        --val-images val2017 --val-annotations instances_val2017.json --every 5 --processes 8 --run runs/ov_coco_rn50x4

Published: 41.7 AP50 novel, 43.8 all. Not run here yet: it needs GPUs and CLIP's weights.
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
            workers=4,
        ),
        prompts=PromptStage(
            epochs=5, batch=4, lr=1e-4, weight_decay=1e-4, schedule=StageSchedule(kind="step", milestones=(4,))
        ),
        relabel=RelabelStage(plot=True),
        localizer=LocalizerStage(
            epochs=35,
            batch=4,
            lr=1e-4,
            weight_decay=1e-4,
            grad_clip=0.1,
            ema=0.99996,
            task=LocalizerTaskConfig(class_dropout=0.2),
            anchors="keep",
        ),
        evaluate_every=5,
    )
