"""Comparisons: the rows of the paper's ablation table, each a task and a detector that differ from CORA in one step.

A row of the table `VARIANTS` says how to train and how to predict. All rows take the same configuration, maps or
images and number of steps, so that one loop measures them under one budget:

    for name, variant in VARIANTS.items():
        if variant.weights_of is None:
            # Rows whose labels differ: relabel with variant.detector(start), or not at all if variant.relabel is False.
            task = variant.build(detector=start, vocabulary=base, config=config)  # `start` stays as it is
            train(task, loader, ...)
            detector = task.detector
        else:  # nothing to train: another row's weights, used otherwise
            detector = variant.detector(trained[variant.weights_of])
        predict = predict_with_true_classes if variant.true_classes else predict_dataset
        predictions = predict(detector, dataset, class_names)

`predict_dataset` is in `cora.evaluation.predict`, `predict_with_true_classes` in `cora.evaluation.oracles`; both take
the same arguments. `start` is a detector with trained prompt and fresh localizer. The tasks are `LocalizerTask`s:
batches of images and of cached maps will do, `trainable_state` and checkpoints work as for it. The row "crops" predicts
from images only, as `predict_dataset` does.
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
