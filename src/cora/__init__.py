"""Name the objects, get the boxes: open-vocabulary detection with CORA.

Examples:
    >>> import cora
    >>> predictor = cora.load("nano")
    >>> found = predictor.predict("coffee.jpg", ["cup", "spoon"], score=0.5)
    >>> found.names
    ['cup']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    """Version of the package, such as "0.1.0"; "0.0.0" in a checkout that was not installed."""

    from cora.detections import Detections
    from cora.detector.cora import Detector
    from cora.predictor.load import load
    from cora.predictor.predictor import Predictor
    from cora.predictor.tiling import Tiles
    from cora.regions.vocabulary import Vocabulary

__all__ = ["Detections", "Detector", "Predictor", "Tiles", "Vocabulary", "__version__", "load"]

_HOME = {
    "Detections": "cora.detections",
    "Detector": "cora.detector.cora",
    "Vocabulary": "cora.regions.vocabulary",
    "Predictor": "cora.predictor.predictor",
    "Tiles": "cora.predictor.tiling",
    "load": "cora.predictor.load",
}


def __getattr__(name: str) -> object:
    # Loading torch takes seconds, and finding the version a tenth of one: `cora --help` does without both.
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        globals()[name] = found = _version()
        return found
    raise AttributeError(f"module 'cora' has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cora-ovd")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0.0.0"


def __dir__() -> list[str]:
    return sorted(__all__)
