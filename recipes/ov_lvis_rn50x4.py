"""OV-LVIS with CLIP RN50x4, the published hyper-parameters: 866 frequent and common classes, 337 rare ones novel.

    cora train all recipes/ov_lvis_rn50x4.py --images train2017 --annotations lvis_v1_train.json --split lvis \\
        --val-images val2017 --val-annotations lvis_v1_val.json --every 5 --processes 8 --run runs/ov_lvis_rn50x4

What LVIS needs beside COCO's: images of rare classes repeated (threshold 0.001), classes drawn with equal weight for
the prompt, 100 classes a step, and queries that may match a box of a similar class (cosine above 0.7).

Published (with extra data, CORA+): 28.1 APr.
Not run: it needs GPUs and CLIP's weights.
"""

from dataclasses import replace

from cora.training.defaults import PUBLISHED_LOCALIZER, PUBLISHED_PROMPTS, published_recipe
from cora.training.recipe import RelabelStage, TrainRecipe


def recipe() -> TrainRecipe:
    """The whole run: 5 epochs of prompts, labels by the prompted classifier, 35 epochs of the localizer."""
    coco = published_recipe("RN50x4-quickgelu")
    task = replace(PUBLISHED_LOCALIZER.task, classes_per_step=100, relaxed_cosine=0.7)
    return replace(
        coco,
        data=replace(coco.data, sampling="repeat-factor", repeat_threshold=0.001),
        prompts=replace(PUBLISHED_PROMPTS, balance="equal", max_boxes=64, classes_per_step=100),
        relabel=RelabelStage(),
        localizer=replace(PUBLISHED_LOCALIZER, task=task),
    )
