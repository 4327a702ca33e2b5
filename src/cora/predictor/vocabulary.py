"""Names, and everything that goes beside them, to a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from cora.data.builtin_names import builtin_names
from cora.detector import DetectorConfig
from cora.errors import VocabularyError
from cora.predictor.exemplars import Exemplars, with_exemplars
from cora.predictor.settings import VocabularySettings, as_classes
from cora.regions import EVERYDAY_NAMES, Classes, ClassPrompts, Vocabulary, VocabularyEncoder, by_themselves


def build_vocabulary(
    classes: ClassPrompts | Vocabulary,
    settings: VocabularySettings,
    *,
    encoder: VocabularyEncoder,
    config: DetectorConfig,
    exemplar_embeddings: Mapping[str, Tensor],
) -> Vocabulary:
    """Encode names, with everything that goes beside them; a vocabulary that was encoded before is completed.

    Args:
        classes: names with their prompts, or an encoded vocabulary; may be empty where there are exemplars.
        settings: what goes beside the names.
        encoder: embeds names.
        config: of the model, which chooses distractors where nobody else does.
        exemplar_embeddings: embeddings of the classes by images, among those of names.

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
    elif classes:
        vocabulary = encoder.encode(classes, descriptions=settings.descriptions)
    if exemplar_embeddings:
        vocabulary = with_exemplars(vocabulary, exemplar_embeddings)
    if vocabulary is None:
        raise VocabularyError(
            "class names: expected at least one, got an empty list; leave it out for the built-in vocabulary"
        )
    vocabulary = vocabulary.weighted(settings.class_weights)
    others = settings.distractors
    if others is None and vocabulary.distractors is None:
        others = own_distractors(config)
    if others is not None:
        # No distractors is a choice, too: an empty list of them stays with the vocabulary, None would ask again.
        vocabulary = replace(vocabulary, distractors=vocabulary.embeddings[:0])
        vocabulary = vocabulary.beside(encoder, others)
    return vocabulary


def classes_to_look_for(
    classes: Classes | Vocabulary | None, *, own: tuple[str, ...], exemplars: Exemplars | None
) -> ClassPrompts | Vocabulary:
    """The classes of a call, in their normal form.

    They are those given, else those of the exemplars alone, the model's own, or the built-in ones.

    Args:
        classes: of the call; None where it gives none.
        own: the model's own names; empty for none.
        exemplars: of the call.

    Raises:
        VocabularyError: no list of names.
    """
    if isinstance(classes, Vocabulary):
        return classes
    if classes is None:
        return {} if exemplars else by_themselves(usual_names(own))
    return as_classes(classes)


def usual_names(own: tuple[str, ...]) -> tuple[str, ...]:
    """Class names that a call without any looks for: the model's own, or the built-in vocabulary."""
    return own or builtin_names()


def own_distractors(config: DetectorConfig) -> tuple[str, ...]:
    """Names that compete with the classes of a call by the model's own choice."""
    return EVERYDAY_NAMES if config.postprocess.distractors == "everyday" else ()
