"""Which model made an embedding: those of two models must never be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint


def model_identity(detector: Detector) -> str:
    """16 hex digits of all weights and of how images are prepared; the same for the same checkpoint anywhere."""
    settings = {"tower": asdict(detector.config.tower), "preprocess": asdict(detector.config.preprocess)}
    # Templates are the text query's affair: the stored regions do not depend on them.
    del settings["tower"]["templates"]
    # Stored regions are pooled exactly.
    content = [weights_fingerprint(detector, without=("fast_alignment.",)), settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
