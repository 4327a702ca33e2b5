"""What a detector is made of, to make another one of it."""

from __future__ import annotations

from typing import Any

from cora.detector.cora import Detector

_PARTS = (
    "image_tower",
    "text_tower",
    "prompt",
    "classifier",
    "localizer",
    "vocabulary_encoder",
    "preprocessor",
    "config",
    "fast_alignment",
)


def parts_of(detector: Detector) -> dict[str, Any]:
    """The detector's own modules and settings under the names of the constructor, not copied."""
    return {name: getattr(detector, name) for name in _PARTS}
