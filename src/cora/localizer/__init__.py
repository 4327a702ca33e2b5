"""The localizer, the DETR half of the paper's Figure 1: C3 and class embeddings in, boxes and objectness out.

In the order of the forward pass: `encoder` encodes C3 (`pyramid` does for `nano`, whose maps have several strides);
`anchors` are learned or come from `proposals`; `pre_matching` gives each anchor a class; `decoder` refines the anchors
to boxes. `localizer` is the module that holds them, and the place to start.
"""

from cora.localizer.anchors import LearnedAnchors, grid_anchors, kmeans_anchors
from cora.localizer.half_precision import inference_localizer
from cora.localizer.localizer import Localizer, LocalizerConfig, LocalizerOutput
from cora.localizer.memory import Memory
from cora.localizer.pre_matching import pre_match
from cora.localizer.proposals import AnchorProposals, Proposals
from cora.localizer.pyramid import PyramidMemory
from cora.localizer.refinement import BoxRefinement

__all__ = [
    "AnchorProposals",
    "BoxRefinement",
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
