"""OV-COCO with CLIP RN50, the published hyper-parameters (Wu et al., CVPR 2023).

    cora train all recipes/ov_coco_rn50.py --images train2017 --annotations instances_train2017.json --split coco \\
        --val-images val2017 --val-annotations instances_val2017.json --every 5 --processes 8 --run runs/ov_coco_rn50

Batch 32 is 4 images on each of 8 GPUs; the command says how many a step has. On fewer, keep it with accumulation:
`--processes 2 --set localizer.accumulate=4 --set prompts.accumulate=4`; where memory is short,
`--set localizer.precision=bf16 --set localizer.task.activation_checkpointing=True`.

The localizer starts as the published one: anchors from N(0, 1), no prior in the bias of its objectness. It is measured
as published, every box pooled exactly, and without weights on classes.

Published: 35.1 AP50 novel, 35.4 all; the command shows them beside its own at the end.
Not run: it needs GPUs and CLIP's weights.
"""

from cora.training.defaults import published_recipe
from cora.training.recipe import TrainRecipe


def recipe() -> TrainRecipe:
    """The whole run: 5 epochs of prompts, labels by the prompted classifier, 35 epochs of the localizer."""
    return published_recipe("RN50-quickgelu", published={"ap50_novel": 35.1, "ap50_all": 35.4})
