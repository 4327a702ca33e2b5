"""Variants of CORA for ablations: each row of the table differs from CORA in one step of training or inference.

`VARIANTS` holds the rows. One loop can train and measure all of them with the same configuration, data and steps:

    for name, variant in VARIANTS.items():
        if variant.weights_of is None:
            # Before: relabel the dataset with variant.detector(start), unless variant.relabel is False.
            task = variant.build(detector=start, vocabulary=base, config=config)  # copies `start`
            train(task, loader, ...)
            detector = task.detector
        else:  # not trained: other inference with the weights of another row
            detector = variant.detector(trained[variant.weights_of])
        predict = predict_with_true_classes if variant.true_classes else predict_dataset
        predictions = predict(detector, dataset, class_names)

`predict_dataset` is in `cora.evaluation.predict`, `predict_with_true_classes` in `cora.evaluation.oracles`; both take
the same arguments. `start` is a detector with a trained prompt and an untrained localizer. The tasks are subclasses of
`LocalizerTask`, and take batches of images or of cached feature maps. The row "crops" predicts from images only, as
`predict_dataset` does.
"""

from cora.training.variants.table import VARIANTS, Variant, VariantName
from cora.training.variants.tasks import (
    ConditionalTask,
    EndToEndCriterion,
    EndToEndTask,
    RegionProposalTask,
    TopKTask,
    TrueClassTask,
)

__all__ = [
    "VARIANTS",
    "ConditionalTask",
    "EndToEndCriterion",
    "EndToEndTask",
    "RegionProposalTask",
    "TopKTask",
    "TrueClassTask",
    "Variant",
    "VariantName",
]
