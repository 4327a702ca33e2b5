"""The parts of a network as they predict fastest: copies of image tower and localizer, everything else shared."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from cora.detector import Detector
from cora.detector.postprocess import ALL_BOXES
from cora.localizer import Localizer, inference_localizer
from cora.towers import ImageTower
from cora.towers.folding import Precision, inference_dtype

AnyDetector = TypeVar("AnyDetector", bound=Detector)


class FastParts:
    """Makes views of a network for inference, and keeps the parts that it copied for them.

    A copy is made again when weights of its original were trained, loaded or moved. Several threads may ask at once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, nn.Module]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._kept, self._lock = {}, threading.Lock()

    def view(self, detector: AnyDetector, precision: Precision) -> AnyDetector:
        """A network that shares all but image tower and localizer, which run in `precision`, in evaluation mode.

        The image tower is folded and channels last. In float32 a localizer in evaluation mode is itself.
        """
        dtype = inference_dtype(precision, detector.device)
        with self._lock:
            tower = self._part("image_tower", detector.image_tower, dtype)
            localizer = self._part("localizer", detector.localizer, dtype)
        return detector.with_parts(image_tower=tower, localizer=localizer)

    @staticmethod
    def state(detector: Detector, precision: Precision) -> object:
        """Equal as long as a view of the network computes the same: type, place and state of the weights."""
        dtype = inference_dtype(precision, detector.device)
        return _state(detector.image_tower, dtype), _state(detector.localizer, dtype)

    def _part(self, name: str, part: ImageTower | Localizer, dtype: torch.dtype) -> nn.Module:
        state = _state(part, dtype)
        if name not in self._kept or self._kept[name][0] != state:
            with torch.inference_mode(False):
                made = part.for_inference(dtype) if isinstance(part, ImageTower) else _localizer(part, dtype)
            self._kept[name] = (state, made)
        return self._kept[name][1]


def at_precision(detector: AnyDetector, precision: Precision) -> AnyDetector:
    """A view for inference of its own: image tower folded, it and the localizer's layers in `precision`."""
    return FastParts().view(detector, precision)


def scoring_all_boxes(detector: AnyDetector) -> AnyDetector:
    """A view that works as published: every box by exact pooling, the tower as it is, nothing folded."""
    every = replace(detector.config.postprocess, **ALL_BOXES)
    return detector.with_parts(
        config=replace(detector.config, postprocess=every), localizer=_in_evaluation(detector.localizer)
    )


def _localizer(localizer: Localizer, dtype: torch.dtype) -> Localizer:
    return _in_evaluation(inference_localizer(localizer, dtype))


def _in_evaluation(localizer: Localizer) -> Localizer:
    """The localizer, or a twin in evaluation mode with the same weights: the mode of a model is its owner's affair."""
    if not localizer.training:
        return localizer
    weights = [*localizer.parameters(), *localizer.buffers()]
    return copy.deepcopy(localizer, {id(weight): weight for weight in weights}).eval()


def _state(part: nn.Module, dtype: torch.dtype) -> object:
    values = chain(part.parameters(), part.buffers())
    pool_size = part.pool_size if isinstance(part, ImageTower) else None
    return (dtype, part.training, pool_size, *((value.data_ptr(), value.device, _version(value)) for value in values))


def _version(value: torch.Tensor) -> int:
    return 0 if value.is_inference() else value._version
