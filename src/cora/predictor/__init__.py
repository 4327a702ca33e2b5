"""The predictor: images, class names and options in, detections out, from a network in PyTorch or an exported one.

Start with `predictor`, then `call`, which runs the images of one call, and `model`, the interface of what runs them.
"""

from cora.errors import OptionError
from cora.predictor.encoded import EncodedImage
from cora.predictor.exemplars import Exemplars, embed_region
from cora.predictor.images import Unreadable, UnreadableImagesError
from cora.predictor.load import load
from cora.predictor.model import Model, TorchModel
from cora.predictor.precision import at_precision, scoring_all_boxes
from cora.predictor.predictor import Predictor, count_distractors, network_of
from cora.predictor.settings import (
    PredictOptions,
    PredictSettings,
    UnknownOptionError,
    VocabularyOptions,
    VocabularySettings,
)
from cora.predictor.tiling import Tiles

__all__ = [
    "EncodedImage",
    "Exemplars",
    "Model",
    "OptionError",
    "PredictOptions",
    "PredictSettings",
    "Predictor",
    "Tiles",
    "TorchModel",
    "UnknownOptionError",
    "Unreadable",
    "UnreadableImagesError",
    "VocabularyOptions",
    "VocabularySettings",
    "at_precision",
    "count_distractors",
    "embed_region",
    "load",
    "network_of",
    "scoring_all_boxes",
]
