"""Name the objects, get the boxes: open-vocabulary detection with CORA.

Example:
    >>> import cora
    >>> predictor = cora.load("nano")
    >>> detections = predictor.predict("kitchen.jpg", classes=["cat", "remote control"])
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cora.detector.cora import Detector
    from cora.predictor.load import load
    from cora.predictor.predictor import Predictor
    from cora.predictor.tiling import Tiles
    from cora.regions.vocabulary import Vocabulary
    from cora.structures import Detections

try:
    __version__ = version("cora-ovd")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0.0.0"

__all__ = ["Detections", "Detector", "Predictor", "Tiles", "Vocabulary", "__version__", "load"]

_HOME = {
    "Detections": "cora.structures",
    "Detector": "cora.detector.cora",
    "Vocabulary": "cora.regions.vocabulary",
    "Predictor": "cora.predictor.predictor",
    "Tiles": "cora.predictor.tiling",
    "load": "cora.predictor.load",
}


def __getattr__(name: str) -> object:
    # Loading torch takes seconds: `cora --help` and `cora.__version__` do without.
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
