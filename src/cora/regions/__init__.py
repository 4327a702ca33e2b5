"""Region prompting: embeddings and class probabilities of regions, vocabularies."""

from cora.regions.classifier import RegionClassifier
from cora.regions.everyday import EVERYDAY_NAMES
from cora.regions.pooling import exact_pooling, fast_pooling
from cora.regions.prompt import RegionPrompt
from cora.regions.templates import IMAGENET_TEMPLATES, TEMPLATE_SETS
from cora.regions.vocabulary import Vocabulary, VocabularyEncoder, clean_names, default_cache_dir

__all__ = [
    "EVERYDAY_NAMES",
    "IMAGENET_TEMPLATES",
    "TEMPLATE_SETS",
    "RegionClassifier",
    "RegionPrompt",
    "Vocabulary",
    "VocabularyEncoder",
    "clean_names",
    "default_cache_dir",
    "exact_pooling",
    "fast_pooling",
]
