"""OV-COCO with open_clip's ConvNeXt-B (`convnext_base_w`, LAION-2B), otherwise the published hyper-parameters.

    cora train all recipes/ov_coco_convnext_b.py --images train2017 --annotations instances_train2017.json \\
        --split coco --val-images val2017 --val-annotations instances_val2017.json --every 5 --processes 8 \\
        --run runs/ov_coco_convnext_b

The tower is about as large as RN50x4's, and its CLIP names images better (71.5 % of ImageNet without training on it, by
its authors). Weights, licence and expected cost: docs/weights.md.

Published (with RN50x4): 41.7 AP50 novel, 43.8 all.
Not run: it needs GPUs and CLIP's weights.
"""

from cora.training.defaults import published_recipe
from cora.training.recipe import TrainRecipe


def recipe() -> TrainRecipe:
    """The whole run: 5 epochs of prompts, labels by the prompted classifier, 35 epochs of the localizer."""
    return published_recipe("convnext_base_w")
