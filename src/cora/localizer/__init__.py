"""The localizer: DAB-DETR with anchor pre-matching.

It finds boxes of any class from a feature map and class embeddings.
"""

from cora.localizer.anchors import LearnedAnchors, grid_anchors, kmeans_anchors
from cora.localizer.encoder import Memory
from cora.localizer.half_precision import inference_localizer
from cora.localizer.localizer import Localizer, LocalizerConfig, LocalizerOutput
from cora.localizer.pre_matching import pre_match
from cora.localizer.proposals import AnchorProposals, Proposals
from cora.localizer.pyramid import PyramidMemory

__all__ = [
    "AnchorProposals",
    "LearnedAnchors",
    "Localizer",
    "LocalizerConfig",
    "LocalizerOutput",
    "Memory",
    "Proposals",
    "PyramidMemory",
    "grid_anchors",
    "inference_localizer",
    "kmeans_anchors",
    "pre_match",
]
