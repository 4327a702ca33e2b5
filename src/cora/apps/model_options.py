"""Options about the model and the names it looks for, the same in every command that has them."""

from __future__ import annotations

import argparse

from cora.apps.argument_types import score

_Options = argparse.ArgumentParser | argparse._ArgumentGroup


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: a GPU if there is one)")


def add_model_option(parser: argparse.ArgumentParser, what: str = "name (see 'cora models') or file") -> None:
    """`--model`, nano by default; `what` says what it may be or is for."""
    parser.add_argument("--model", default="nano", help=f"{what} (default: %(default)s)")


def add_resnet_option(parser: argparse.ArgumentParser) -> None:
    """`--model` of what needs the parts of a CLIP ResNet: required, since no embedded model has them."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="detector on a CLIP ResNet, which nano is not: a file, of 'cora train' or 'cora convert', or a name such "
        "as RN50-quickgelu",
    )


def add_text_model_option(parser: argparse.ArgumentParser) -> None:
    """`--text-model`, for exported files."""
    parser.add_argument(
        "--text-model",
        metavar="MODEL",
        help="model whose text tower embeds names for an exported file (default: the one named in the file)",
    )


def add_classes_option(parser: argparse.ArgumentParser, *, optional: bool = False, prompts: bool = True) -> None:
    """`--classes`, with `prompts` or without; required unless it is `optional`; see `looked_for`."""
    parser.add_argument(
        "--classes",
        required=not optional,
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line'
        + (', with several prompts for a class: "mug = cup | coffee cup"' if prompts else "")
        + " (default: those of --exemplar, of a fine-tuned or an exported model, else 1,200 everyday things)"
        * optional,
    )


def add_distractors_option(parser: argparse.ArgumentParser, where: str = "pictures") -> None:
    """`--distractors`; `where` the other things may be."""
    parser.add_argument(
        "--distractors",
        metavar="NAMES",
        help=f"other things that may be in the {where}, like --classes, or 'none'; they compete with the classes and "
        "are never reported (default: the model's own choice)",
    )


def add_score_option(parser: _Options, what: str) -> None:
    """`--score`, the model's own threshold where it is not given; `what` it is the least score of."""
    parser.add_argument(
        "--score",
        type=score,
        metavar="SCORE",
        help=f"least score {what}, 0 to 1 (default: the model's own, which 'cora models' lists)",
    )


def add_class_agnostic_option(parser: _Options, *, names_given: bool = True) -> None:
    """`--class-agnostic`; False by default where `names_given` says that there is no built-in vocabulary."""
    parser.add_argument(
        "--class-agnostic",
        action=argparse.BooleanOptionalAction,
        default=False if names_given else None,
        help="drop a box also for a better one of another class, so that one object has one name "
        + ("(default: no)" if names_given else "(default: with the built-in vocabulary only)"),
    )


def read_classes(text: str) -> dict[str, tuple[str, ...]]:
    """Classes of `--classes`, each with its prompts: divided by commas, or @FILE with one a line.

    Raises:
        VocabularyError: the file cannot be read, or the names or prompts cannot be used: none, blank ones, one twice.
    """
    from cora.apps.files import parse_classes
    from cora.regions.class_names import class_prompts, clean_names

    classes = class_prompts(parse_classes(text))
    clean_names(tuple(classes))  # which says that there is none
    return classes


def read_names(text: str, option: str = "--classes") -> tuple[str, ...]:
    """Class names of an option that takes no prompts, written as in `read_classes`.

    Raises:
        VocabularyError: the file cannot be read, the names cannot be used, or some have prompts.
    """
    from cora.apps.files import parse_classes
    from cora.regions.class_names import clean_names, names_alone

    return clean_names(names_alone(option, parse_classes(text)))


def read_distractors(text: str | None) -> tuple[str, ...] | None:
    """Names of `--distractors`, as the predictor takes them: () for 'none', None, its own choice, for no option.

    Raises:
        VocabularyError: as `read_names`.
    """
    from cora.regions.class_names import by_themselves, written_classes

    if text is None or text == "none":
        return None if text is None else ()
    return written_classes(by_themselves(read_names(text, "--distractors")))
