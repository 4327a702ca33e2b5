"""Models of the commands and what is looked for with them; and what the commands say of names that nobody gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cora
from cora.apps.argument_types import Box
from cora.apps.model_options import NamesOptions
from cora.compress.quantize_torch import is_int8_file, load_int8
from cora.console import output_console, say
from cora.data.class_weights import weights_of_names
from cora.data.name_file import read_classes, read_distractors
from cora.detector import Detector, DetectorConfig, check_trained, read_config
from cora.errors import ModelError, VocabularyError
from cora.export import load_exported
from cora.names import names_in, quoted_name
from cora.predictor import Exemplars, Predictor, count_distractors
from cora.predictor.device import pick_device
from cora.predictor.vocabulary import usual_names as names_for_calls
from cora.regions import ClassPrompts, Vocabulary, other_prompts
from cora.regions.sentences import Sentences
from cora.towers import known_towers

#: Endings of files that `cora export` writes and that `--model` takes.
EXPORTED = (".onnx", ".xml", ".tflite")


def open_detector(model: str, device: str = "auto", *, text_model: str | None = None) -> Predictor:
    """Load the model that `--model` names, on a device, ready to predict.

    What needs the network itself calls `open_torch_detector`.

    Args:
        model: name (see `cora models`), checkpoint, or an exported file: *.onnx, OpenVINO's *.xml or LiteRT's *.tflite.
        device: name of a torch device, or "auto" for a GPU if there is one; "auto" keeps exported files on the CPU.
        text_model: name or checkpoint whose text tower embeds names for an exported file; the one in the file if None.

    Raises:
        ModelError: there is no such model, it cannot be read, or it cannot find boxes, as a tower alone.
        CoraError: there is no such device.
        MissingExtraError: an exported file's runtime is not installed.
    """
    if is_exported(model):
        runs_on = "cpu" if device == "auto" else device
        return load_exported(model, load_text_model=cora.load, text_model=text_model, device=runs_on)
    if text_model is not None:
        raise ModelError(f"--text-model {text_model}: expected an exported file as --model, got {model}; leave it out")
    check_detects(model)
    where = pick_device(device)
    return Predictor(load_int8(model).to(where)) if is_int8_file(model) else cora.load(model).to(where)


def check_detects(model: str) -> None:
    """Refuse a model that is a tower alone, before anything of it is loaded or downloaded.

    Raises:
        ModelError: it is the name of a tower, or a file whose localizer is untrained.
    """
    if model in known_towers():
        check_trained(DetectorConfig(untrained=True), model=f"model {model}")
    if Path(model).is_file() and not is_int8_file(model):
        check_trained(read_config(model)[0], model=f"model {model}")


def is_exported(model: str) -> bool:
    """Whether a name is that of an exported file."""
    return model.lower().endswith(EXPORTED)


def open_torch_detector(
    model: str, device: str = "auto", *, needs: str = "this command", trained: bool = True
) -> Detector:
    """The network of a model, for what needs its parts, which an exported file does not have.

    Args:
        model: name or checkpoint.
        device: name of a torch device, or "auto".
        needs: who asks, for the message.
        trained: whether it has to find boxes.

    Raises:
        ModelError: there is no such model, or it is an exported or an INT8 one.
    """
    if is_exported(model):
        raise ModelError(
            f"{needs}: expected a model by name or a checkpoint, got the exported {model}; name what it was made of"
        )
    if is_int8_file(model):
        raise ModelError(f"{needs}: expected a model of floats, got the INT8 copy {model}; name what it was made of")
    where = pick_device(device)
    if trained:
        check_detects(model)
    return cora.load(model).detector.to(where)


_SHOWN_NAMES = 8
#: How the commands that have the option switch everyday names off.
SWITCH = "--distractors none switches them off"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the options say is looked for, checked before a model is loaded.

    Attributes:
        classes: with their prompts; {} for exemplars alone; None for the model's own names, or the built-in ones.
        exemplars: images by class.
        distractors: names that compete; None for the model's own choice.
        sentences: around and about the names.
        class_weights: factors in pre-matching, by class.
    """

    classes: ClassPrompts | None
    exemplars: Mapping[str, list[Path | tuple[Path, Box]]]
    distractors: tuple[str, ...] | None
    sentences: Sentences
    class_weights: dict[str, float]


def read_wanted(options: NamesOptions, model: str) -> Wanted:
    """What is looked for with a model.

    Raises:
        CoraError: a file cannot be read, or names, sentences or weights cannot be used.
    """
    exemplars = options.exemplars()
    classes = wanted_classes(options.classes, exemplars)
    named = usual_names(model) if classes is None else tuple(classes)
    return Wanted(
        classes=classes,
        exemplars=exemplars,
        distractors=read_distractors(options.distractors),
        sentences=options.text.read(named),
        class_weights=weights_of_names(options.class_weights, (*named, *exemplars)),
    )


def wanted_classes(classes: str | None, exemplars: Exemplars | None) -> ClassPrompts | None:
    """Classes of `--classes`, {} for exemplars alone; None without both: the model's own names, or the built-in ones.

    Raises:
        VocabularyError: as `read_classes`.
    """
    if classes is None:
        return {} if exemplars else None
    if classes.strip().casefold() in ("*", "all", "everything"):
        raise VocabularyError(
            f"--classes: expected names, got {classes.strip()!r}; leave --classes out for the built-in vocabulary"
        )
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


def tell_wanted(
    detector: Predictor, vocabulary: Vocabulary, wanted: Wanted, *, score: float, class_agnostic: bool | None
) -> None:
    """Print one line each where nobody chose what is looked for, and what competes with it.

    Args:
        detector: the model.
        vocabulary: that is looked for.
        wanted: as the command says it.
        score: the score threshold.
        class_agnostic: as the command says it.
    """
    if wanted.classes is None:
        say(output_console(), _line(detector, vocabulary, score=score, one_name=class_agnostic is not False))
    tell_distractors(detector, (*vocabulary.names, *other_prompts(wanted.classes or {})), wanted.distractors)


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


def tell_distractors(
    detector: Predictor | Detector, names: Sequence[str], asked: Sequence[str] | None, *, switch: str = SWITCH
) -> None:
    """Print one line where the model's own choice lets other names compete; nothing where the user chose.

    Args:
        detector: the model.
        names: that are looked for.
        asked: the distractors of the command; None where nothing was said.
        switch: how they are switched off.
    """
    line = None if asked is not None else distractors_line(detector, names, switch=switch)
    if line is not None:
        say(output_console(), line)


def distractors_line(
    detector: Predictor | Detector, names: Sequence[str], *, switch: str = SWITCH, yours: str = "yours"
) -> str | None:
    """The line of `tell_distractors`; None where nothing competes. `yours`: what they compete with."""
    count = count_distractors(detector, names)
    if not count:
        return None
    if getattr(detector, "class_names", ()):
        kind, switch = "other", "they are part of the file; 'cora export --distractors none' writes one without"
    else:
        kind = "everyday"
    plural = "name competes" if count == 1 else "names compete"
    return f"{count} {kind} {plural} with {yours} and are not reported ({switch})"
