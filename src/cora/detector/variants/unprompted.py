"""No region prompt: the tower's own attention pool, as CLIP was trained, wherever regions are embedded."""

from __future__ import annotations

from cora.detector.cora import Detector
from cora.detector.variants.parts import parts_of
from cora.regions import RegionPrompt


def without_prompt(detector: Detector) -> Detector:
    """A detector that shares everything with the given one but its prompt, which is zero.

    Pre-matching, relabelling and final scores are all without it.
    """
    positions = detector.prompt.offset
    prompt = RegionPrompt(cells=positions.shape[0], channels=positions.shape[1]).to(positions)
    parts = parts_of(detector) | {"prompt": prompt.requires_grad_(False)}
    bare = Detector(**parts).train(detector.training)
    bare.align_fast_pooling(None)  # it was fitted to the prompt
    return bare
