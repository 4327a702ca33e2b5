"""Identifies the model that made embeddings, since those of different models must never be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint


def model_identity(detector: Detector) -> str:
    """A hash (16 hex digits) of all weights and of the preprocessing; equal for the same checkpoint on any machine."""
    settings = {"tower": asdict(detector.config.tower), "preprocess": asdict(detector.config.preprocess)}
    # Templates change text queries, not the stored regions.
    del settings["tower"]["templates"]
    # Fast alignment does not change them either: they are pooled exactly.
    content = [weights_fingerprint(detector, without=("fast_alignment.",)), settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
