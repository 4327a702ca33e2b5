"""How often each training image is drawn: the settings `sampling` and `pseudo_weight` of a recipe's data."""

from __future__ import annotations

from torch import Tensor

from cora.data.coco import CocoDataset
from cora.data.sampling import equal_class_weights, pseudo_weights, repeat_factors, small_object_weights
from cora.training.recipe import DataStage


def image_weights(data: DataStage, dataset: CocoDataset) -> Tensor | None:
    """Sampling weights [n], float64, of the images of a dataset; None if all are drawn equally often."""
    weights = _by_classes(data, dataset)
    if data.pseudo_weight == 1:
        return weights
    pseudo = pseudo_weights(dataset.records, data.pseudo_weight)
    return pseudo if weights is None else weights * pseudo


def _by_classes(data: DataStage, dataset: CocoDataset) -> Tensor | None:
    match data.sampling:
        case "repeat-factor":
            return repeat_factors(dataset.records, data.repeat_threshold)
        case "equal-classes":
            return equal_class_weights(dataset.records, range(len(dataset.class_names)))
        case "small-objects":
            return small_object_weights(dataset.records, factor=data.small_factor)
        case _:
            return None
