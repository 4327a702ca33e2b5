"""Opens models for the commands, reads what to look for, and prints which names are used where none are given."""

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

    Commands that need the network itself call `open_torch_detector`.

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
    """Refuse a model that is only a tower, before anything of it is loaded or downloaded.

    Raises:
        ModelError: it is the name of a tower, or a file whose localizer is untrained.
    """
    if model in known_towers():
        check_trained(DetectorConfig(untrained=True), model=f"model {model}")
    if Path(model).is_file() and not is_int8_file(model):
        check_trained(read_config(model)[0], model=f"model {model}")


def is_exported(model: str) -> bool:
    """Whether `--model` names an exported file."""
    return model.lower().endswith(EXPORTED)


def open_torch_detector(
    model: str, device: str = "auto", *, needs: str = "this command", trained: bool = True
) -> Detector:
    """Load the network of a model, for commands that need its parts, which an exported file does not have.

    Args:
        model: name or checkpoint.
        device: name of a torch device, or "auto".
        needs: name of the command, for messages.
        trained: whether the localizer must be trained.

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
#: How to switch everyday names off, for the commands that have the option.
SWITCH = "--distractors none switches them off"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to look for, as the options say; checked before a model is loaded.

    Attributes:
        classes: with their prompts; {} for exemplars alone; None for the model's own names, or the built-in ones.
        exemplars: images by class.
        distractors: names that compete; None for the model's own choice.
        sentences: templates and descriptions of the names.
        class_weights: factors in pre-matching, by class.
    """

    classes: ClassPrompts | None
    exemplars: Mapping[str, list[Path | tuple[Path, Box]]]
    distractors: tuple[str, ...] | None
    sentences: Sentences
    class_weights: dict[str, float]


def read_wanted(options: NamesOptions, model: str) -> Wanted:
    """Read the options that say what to look for; `model` is that of `--model`, which may have names of its own.

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
    """The `classes` of `Wanted`, from the text of `--classes` and the exemplars.

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
    """Names that a model looks for where a command gives none; reads no weights.

    They are () for an exported file, which must be opened to know them.

    Raises:
        ModelError: the file is not a model.
    """
    if is_exported(model):
        return ()
    whole = Path(model).is_file() and not is_int8_file(model)
    return names_for_calls(read_config(model)[0].own_names if whole else ())


def tell_wanted(
    detector: Predictor, vocabulary: Vocabulary, wanted: Wanted, *, score: float, class_agnostic: bool | None
) -> None:
    """Print a line about class names that the user did not choose, and one about such distractors.

    Args:
        detector: the model.
        vocabulary: that it looks for.
        wanted: what the options say.
        score: the score threshold.
        class_agnostic: value of the option.
    """
    if wanted.classes is None:
        say(output_console(), _names_line(detector, vocabulary, score=score, one_name=class_agnostic is not False))
    tell_distractors(detector, (*vocabulary.names, *other_prompts(wanted.classes or {})), wanted.distractors)


def _names_line(detector: Predictor, vocabulary: Vocabulary, *, score: float, one_name: bool) -> str:
    """Which names are looked for where the command gives none."""
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
    """Print how many distractors compete by the model's own choice; nothing where the user chose them.

    Args:
        detector: the model.
        names: that are looked for.
        asked: distractors that the user gave; None for none given.
        switch: how to switch them off, for the line.
    """
    line = None if asked is not None else distractors_line(detector, names, switch=switch)
    if line is not None:
        say(output_console(), line)


def distractors_line(
    detector: Predictor | Detector, names: Sequence[str], *, switch: str = SWITCH, yours: str = "yours"
) -> str | None:
    """The line of `tell_distractors`; None where nothing competes. `yours` says what they compete with."""
    count = count_distractors(detector, names)
    if not count:
        return None
    if getattr(detector, "class_names", ()):
        kind, switch = "other", "they are part of the file; 'cora export --distractors none' writes one without"
    else:
        kind = "everyday"
    plural = "name competes" if count == 1 else "names compete"
    return f"{count} {kind} {plural} with {yours} and are not reported ({switch})"
