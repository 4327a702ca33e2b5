"""The detector, the paper's Figure 1 as one module.

Start with `cora`, the forward pass; `postprocess` turns its scores into detections, `fast_scoring` saves most of the
exact pooling. `config` and `checkpoint` are the model file, `presets` finds models by name. `published*`, `clip_file`
and `foreign` read files of other programs. `variants` are the rows of the paper's ablation table.
"""

from cora.detector.checkpoint import read_checkpoint, read_config, write_checkpoint, write_sharing_checkpoint
from cora.detector.config import DetectorConfig, check_no_variant, check_pool_size, check_trained
from cora.detector.cora import Detector
from cora.detector.outputs import DetectorOutput, PreMatched, Seen
from cora.detector.postprocess import PostprocessConfig, combine_scores, select_detections
from cora.detector.presets import (
    config_for_tower,
    known_models,
    load,
    load_checkpoint,
    new_detector,
    preset_config,
)
from cora.detector.published import detector_from_published, load_foreign, load_published
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig

__all__ = [
    "Detector",
    "DetectorConfig",
    "DetectorOutput",
    "LocalizerConfig",
    "PostprocessConfig",
    "PreMatched",
    "Seen",
    "TowerConfig",
    "check_no_variant",
    "check_pool_size",
    "check_trained",
    "combine_scores",
    "config_for_tower",
    "detector_from_published",
    "known_models",
    "load",
    "load_checkpoint",
    "load_foreign",
    "load_published",
    "new_detector",
    "preset_config",
    "read_checkpoint",
    "read_config",
    "select_detections",
    "write_checkpoint",
    "write_sharing_checkpoint",
]
