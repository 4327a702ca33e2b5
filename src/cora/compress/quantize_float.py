"""Finds the layers of an exported graph that stay float, by their weights, since exporters do not keep names."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cora.detector import Detector

#: Parts of the localizer that stay float in every backend: they compute coordinates, which need precision (a box is a
#: sum of small offsets in logit space, a position is encoded in sines), and are too small to save time in INT8.
FLOAT_PARTS = ("box_heads", "objectness_head", "anchor_size", "query_position", "position_scale")


class FloatWeights:
    """The set of weights that stay float; it also contains their transposes.

    Args:
        detector: its `FLOAT_PARTS` and its fast alignment stay float.
    """

    def __init__(self, detector: Detector) -> None:
        layers = [
            layer
            for name, layer in detector.localizer.named_modules()
            if isinstance(layer, nn.Linear) and any(part in FLOAT_PARTS for part in name.split("."))
        ]
        if detector.fast_alignment is not None:
            layers.append(detector.fast_alignment.shift)
        self._known = {_key(layer.weight.detach().float().cpu().numpy()) for layer in layers}

    def __contains__(self, weight: NDArray[Any]) -> bool:
        return weight.ndim == 2 and (_key(weight) in self._known or _key(weight.T) in self._known)


def _key(weight: NDArray[Any]) -> str:
    shape = "x".join(map(str, weight.shape))
    return shape + hashlib.sha256(np.ascontiguousarray(weight, dtype=np.float32).tobytes()).hexdigest()
