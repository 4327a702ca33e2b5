"""Build the vocabulary of a call: class names, descriptions, exemplars, pre-matching weights and distractors."""

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
    exemplars: Mapping[str, Tensor],
) -> Vocabulary:
    """Encode class names, and add exemplars, weights and distractors to them, or to a given vocabulary.

    Args:
        classes: class names with their prompts, or an encoded vocabulary; may be empty if there are exemplars.
        settings: descriptions, weights and distractors.
        encoder: embeds names.
        config: of the model; chooses the distractors if neither the settings nor the vocabulary do.
        exemplars: class name -> unit embedding [D] of its exemplars, in the space of names.

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
    if exemplars:
        vocabulary = with_exemplars(vocabulary, exemplars)
    if vocabulary is None:
        raise VocabularyError(
            "class names: expected at least one, got an empty list; leave it out for the built-in vocabulary"
        )
    vocabulary = vocabulary.weighted(settings.class_weights)
    others = settings.distractors
    if others is None and vocabulary.distractors is None:
        others = own_distractors(config)
    if others is not None:
        # An empty tensor records the choice of no distractors; None would choose the model's in the next call.
        vocabulary = replace(vocabulary, distractors=vocabulary.embeddings[:0])
        vocabulary = vocabulary.beside(encoder, others)
    return vocabulary


def classes_to_look_for(
    classes: Classes | Vocabulary | None, *, own: tuple[str, ...], exemplars: Exemplars | None
) -> ClassPrompts | Vocabulary:
    """The classes of a call, in their normal form.

    If the call gives none: those of its exemplars alone, else the model's own, else the built-in vocabulary.

    Args:
        classes: of the call, or None.
        own: the model's own class names; empty for none.
        exemplars: of the call, or None.

    Raises:
        VocabularyError: `classes` is no list of names.
    """
    if isinstance(classes, Vocabulary):
        return classes
    if classes is None:
        return {} if exemplars else by_themselves(usual_names(own))
    return as_classes(classes)


def usual_names(own: tuple[str, ...]) -> tuple[str, ...]:
    """Class names of a call that gives none: the model's own, or the built-in vocabulary."""
    return own or builtin_names()


def own_distractors(config: DetectorConfig) -> tuple[str, ...]:
    """The model's own choice of distractors."""
    return EVERYDAY_NAMES if config.postprocess.distractors == "everyday" else ()
