"""Views of a network for fast inference: image tower and localizer are optimised copies, the rest is shared."""

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
    """Makes views of a network for inference, and caches the optimised copies of its parts.

    A copy is made again if the weights of its original were trained, loaded or moved. Thread-safe.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, nn.Module]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._cache, self._lock = {}, threading.Lock()

    def view(self, detector: AnyDetector, precision: Precision) -> AnyDetector:
        """A network that shares everything but image tower and localizer, which run in `precision`, in evaluation mode.

        The image tower has its norms folded and is channels last. A float32 localizer in evaluation mode is not copied.
        """
        dtype = inference_dtype(precision, detector.device)
        with self._lock:
            tower = self._part("image_tower", detector.image_tower, dtype)
            localizer = self._part("localizer", detector.localizer, dtype)
        return detector.with_parts(image_tower=tower, localizer=localizer)

    @staticmethod
    def state(detector: Detector, precision: Precision) -> object:
        """A value that changes if a view would compute something else: dtype, device and version of the weights."""
        dtype = inference_dtype(precision, detector.device)
        return _state(detector.image_tower, dtype), _state(detector.localizer, dtype)

    def _part(self, name: str, part: ImageTower | Localizer, dtype: torch.dtype) -> nn.Module:
        state = _state(part, dtype)
        if name not in self._cache or self._cache[name][0] != state:
            with torch.inference_mode(False):
                copied = part.for_inference(dtype) if isinstance(part, ImageTower) else _localizer(part, dtype)
            self._cache[name] = (state, copied)
        return self._cache[name][1]


def at_precision(detector: AnyDetector, precision: Precision) -> AnyDetector:
    """A view for inference with uncached copies: image tower and localizer in `precision`, norms folded."""
    return FastParts().view(detector, precision)


def scoring_all_boxes(detector: AnyDetector) -> AnyDetector:
    """A view that computes as published: exact pooling of every box, no folded norms, the weights' precision."""
    postprocess = replace(detector.config.postprocess, **ALL_BOXES)
    return detector.with_parts(
        config=replace(detector.config, postprocess=postprocess), localizer=_in_evaluation(detector.localizer)
    )


def _localizer(localizer: Localizer, dtype: torch.dtype) -> Localizer:
    return _in_evaluation(inference_localizer(localizer, dtype))


def _in_evaluation(localizer: Localizer) -> Localizer:
    """The localizer in evaluation mode: itself, or, so that its mode stays, a copy that shares its weights."""
    if not localizer.training:
        return localizer
    weights = [*localizer.parameters(), *localizer.buffers()]
    return copy.deepcopy(localizer, {id(weight): weight for weight in weights}).eval()


def _state(part: nn.Module, dtype: torch.dtype) -> object:
    values = chain(part.parameters(), part.buffers())
    pool_size = part.pool_size if isinstance(part, ImageTower) else None
    return (dtype, part.training, pool_size, *((value.data_ptr(), value.device, _version(value)) for value in values))


def _version(value: torch.Tensor) -> int:
    """Number of in-place changes of a tensor; inference tensors do not count them."""
    return 0 if value.is_inference() else value._version
