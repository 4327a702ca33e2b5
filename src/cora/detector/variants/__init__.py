"""Detectors that differ from CORA in one step, for comparisons (the paper's ablation table).

Each is made `of` a detector and shares its modules: what one learns, the other knows. They are not shipped as models
and have no settings in a checkpoint; `cora.training.variants` says how each is trained.
"""

from cora.detector.variants.conditional import ConditionalDetector
from cora.detector.variants.crops import CropDetector
from cora.detector.variants.end_to_end import EndToEndDetector, EndToEndHead
from cora.detector.variants.region_proposals import RegionProposalDetector, any_object
from cora.detector.variants.top_k import TopKDetector
from cora.detector.variants.true_classes import classes_of_boxes
from cora.detector.variants.unprompted import without_prompt

__all__ = [
    "ConditionalDetector",
    "CropDetector",
    "EndToEndDetector",
    "EndToEndHead",
    "RegionProposalDetector",
    "TopKDetector",
    "any_object",
    "classes_of_boxes",
    "without_prompt",
]
