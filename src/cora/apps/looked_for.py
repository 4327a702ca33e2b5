"""What commands look for: the class names of `--classes`, and what they say where nobody gave any."""

from __future__ import annotations

from pathlib import Path

from cora.apps.model_options import read_classes
from cora.apps.open_model import is_exported
from cora.compress.quantize_torch import is_int8_file
from cora.console import output_console, say
from cora.detector import read_config
from cora.errors import VocabularyError
from cora.names import names_in, quoted_name
from cora.predictor import Exemplars, Predictor
from cora.predictor.vocabulary import usual_names as names_for_calls
from cora.regions import ClassPrompts, Vocabulary

_SHOWN_NAMES = 8


def wanted_classes(classes: str | None, exemplars: Exemplars | None) -> ClassPrompts | None:
    """Classes of `--classes`, {} for exemplars alone; None without both: the model's own names, or the built-in ones.

    Raises:
        VocabularyError: as `read_classes`.
    """
    if classes is None:
        return {} if exemplars else None
    try:
        return read_classes(classes)
    except VocabularyError as error:
        if names_in(classes):
            raise
        raise VocabularyError(f"{error}; leave --classes out for the built-in vocabulary") from None


def usual_names(model: str) -> tuple[str, ...]:
    """Names that a model looks for where a command gives none, before it is loaded.

    They are () for an exported file, which is to be opened first.

    Raises:
        ModelError: a file that is no model.
    """
    if is_exported(model):
        return ()
    whole = Path(model).is_file() and not is_int8_file(model)
    return names_for_calls(read_config(model)[0].own_names if whole else ())


def tell_names(
    detector: Predictor,
    vocabulary: Vocabulary,
    *,
    classes: ClassPrompts | None,
    score: float,
    class_agnostic: bool | None = None,
) -> None:
    """Print one line where nobody chose what is looked for.

    Args:
        detector: the model.
        vocabulary: that is looked for.
        classes: of the command; None where it has none, which alone is said.
        score: the score threshold.
        class_agnostic: as the command says it.
    """
    if classes is None:
        say(output_console(), _line(detector, vocabulary, score=score, one_name=class_agnostic is not False))


def _line(detector: Predictor, vocabulary: Vocabulary, *, score: float, one_name: bool) -> str:
    count = len(vocabulary)
    if vocabulary.built_in:
        one = ", one name for each object" * one_name
        return (
            f"Built-in vocabulary: {count:,} class names, score threshold {score:g}{one} "
            '(--classes "cup, dog" looks for your own)'
        )
    shown = ", ".join(map(quoted_name, vocabulary.names[:_SHOWN_NAMES]))
    more = f" and {count - _SHOWN_NAMES} more" if count > _SHOWN_NAMES else ""
    if getattr(detector, "class_names", ()):
        return f"Class names of the exported file: {shown}{more}"
    return f"Class names that the model was fine-tuned on: {shown}{more} (--classes looks for others)"
