"""Region prompting, the classification half of the paper's Figure 1: boxes and class names in, class probabilities out.

Start with `prompt`, the learned part. `region_pooling` embeds regions with it; the pooling depends on the image tower:
`pooling` for CLIP ResNets (the paper's), `stage_pooling` for ConvNeXts, `cell_pooling` for timm backbones. `vocabulary`
embeds class names. `classifier` compares both embeddings.
"""

from cora.regions.class_names import (
    Classes,
    ClassPrompts,
    by_themselves,
    class_prompts,
    clean_names,
    names_alone,
    other_prompts,
    written_classes,
)
from cora.regions.classifier import RegionClassifier
from cora.regions.descriptions import Descriptions, check_described, clean_descriptions, read_descriptions
from cora.regions.everyday import EVERYDAY_NAMES
from cora.regions.fast_alignment import AlignmentFit, FastAlignment
from cora.regions.learned_text import (
    LearnedContext,
    LearnedOffsets,
    LearnedText,
    LearnedTextConfig,
    build_learned_text,
)
from cora.regions.pooling import ProjectedMap, exact_pooling, fast_pooling, project_map
from cora.regions.prompt import RegionPrompt
from cora.regions.region_pooling import Prepared, RegionPooling, region_pooling
from cora.regions.templates import IMAGENET_TEMPLATES, TEMPLATE_SETS, clean_templates, read_templates
from cora.regions.vocabulary import Vocabulary, VocabularyEncoder, default_cache_dir

__all__ = [
    "EVERYDAY_NAMES",
    "IMAGENET_TEMPLATES",
    "TEMPLATE_SETS",
    "AlignmentFit",
    "ClassPrompts",
    "Classes",
    "Descriptions",
    "FastAlignment",
    "LearnedContext",
    "LearnedOffsets",
    "LearnedText",
    "LearnedTextConfig",
    "Prepared",
    "ProjectedMap",
    "RegionClassifier",
    "RegionPooling",
    "RegionPrompt",
    "Vocabulary",
    "VocabularyEncoder",
    "build_learned_text",
    "by_themselves",
    "check_described",
    "class_prompts",
    "clean_descriptions",
    "clean_names",
    "clean_templates",
    "default_cache_dir",
    "exact_pooling",
    "fast_pooling",
    "names_alone",
    "other_prompts",
    "project_map",
    "read_descriptions",
    "read_templates",
    "region_pooling",
    "written_classes",
]
