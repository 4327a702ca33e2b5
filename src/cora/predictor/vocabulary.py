"""Names, and everything that goes beside them, to a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from cora.detector import DetectorConfig
from cora.errors import VocabularyError
from cora.predictor.exemplars import with_exemplars
from cora.predictor.settings import VocabularySettings
from cora.regions import EVERYDAY_NAMES, ClassPrompts, Vocabulary, VocabularyEncoder


def build_vocabulary(
    classes: ClassPrompts | Vocabulary,
    settings: VocabularySettings,
    *,
    encoder: VocabularyEncoder,
    config: DetectorConfig,
    pictured: Mapping[str, Tensor],
) -> Vocabulary:
    """Encode names, with everything that goes beside them; a vocabulary that was encoded before is completed.

    Args:
        classes: names with their prompts, or an encoded vocabulary; may be empty where there are exemplars.
        settings: what goes beside the names.
        encoder: embeds names.
        config: of the model, which chooses distractors where nobody else does.
        pictured: embeddings of the classes by images, among those of names.

    Raises:
        VocabularyError: the names are unusable, or descriptions come with an encoded vocabulary.
    """
    if isinstance(classes, Vocabulary) and settings.descriptions is not None:
        raise VocabularyError(
            "descriptions: expected names of classes beside them, got an encoded vocabulary; "
            "give the descriptions where it is encoded"
        )
    vocabulary: Vocabulary | None = None
    if isinstance(classes, Vocabulary):
        vocabulary = classes
    elif classes or not pictured:
        vocabulary = encoder.encode(classes, descriptions=settings.descriptions)
    if pictured:
        vocabulary = with_exemplars(vocabulary, pictured)
    assert vocabulary is not None  # an empty list of names has raised
    vocabulary = vocabulary.weighted(settings.class_weights)
    others = settings.distractors
    if others is None and vocabulary.distractors is None:
        others = own_distractors(config)
    if others is not None:
        # No distractors is a choice, too: an empty list of them stays with the vocabulary, None would ask again.
        vocabulary = replace(vocabulary, distractors=vocabulary.embeddings[:0])
        vocabulary = vocabulary.beside(encoder, others)
    return vocabulary


def own_distractors(config: DetectorConfig) -> tuple[str, ...]:
    """Names that compete with the classes of a call by the model's own choice."""
    return EVERYDAY_NAMES if config.postprocess.distractors == "everyday" else ()
