"""Options of `Predictor.predict` and `Predictor.vocabulary`, with their defaults and checks."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ParamSpec, TypedDict, TypeVar, get_args

import numpy as np

from cora.errors import CoraError, OptionError, VocabularyError
from cora.names import names_in
from cora.predictor.exemplars import Exemplars
from cora.predictor.tiling import Tiles
from cora.regions import Classes, Descriptions, class_prompts, names_alone
from cora.towers.folding import Precision

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class UnknownOptionError(CoraError, TypeError):
    """Unknown option; the message suggests the one that was probably meant."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Validated options of `Predictor.predict`, without those of the vocabulary.

    Attributes:
        score: only detections above it, 0..1; None for the model's own threshold.
        nms_iou: suppression threshold, 0..1; None for the model's own.
        max_detections: boxes kept per image; None for the model's own.
        class_agnostic: suppress between classes, too, so that one object has one name; None for the built-in vocabulary
            only.
        tiles: detect in overlapping tiles as well, for small objects; None for the whole image only.
        batch_size: most images per forward pass.
        score_all_boxes: pool every box exactly, as published, in the precision of the weights.
        precision: dtype of the image tower and the localizer's layers; None for the predictor's own.
    """

    score: float | None = None
    nms_iou: float | None = None
    max_detections: int | None = None
    class_agnostic: bool | None = None
    tiles: Tiles | None = None
    batch_size: int = 1
    score_all_boxes: bool = False
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for name in ("score", "nms_iou"):
            _check_share(name, getattr(self, name))
        for name in ("class_agnostic", "score_all_boxes"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_) and (value is not None or name == "score_all_boxes"):
                raise OptionError(f"{name}: expected True or False, got {_shown(getattr(self, name))}")
        _check_count("batch_size", self.batch_size)
        if self.max_detections is not None:
            _check_count("max_detections", self.max_detections)
        if self.tiles is not None and not isinstance(self.tiles, Tiles):
            raise OptionError(
                f"tiles: expected cora.Tiles, such as Tiles(count=(2, 2)) or Tiles(size_px=512), "
                f"got {_shown(self.tiles)}"
            )
        if self.precision is not None and self.precision not in get_args(Precision):
            raise OptionError(
                f"precision: expected one of {', '.join(get_args(Precision))}, got {_shown(self.precision)}"
            )


@dataclass(frozen=True, kw_only=True)
class VocabularySettings:
    """Validated options of `Predictor.vocabulary`.

    Attributes:
        class_weights: class name -> factor on the class's score in anchor pre-matching.
        distractors: names of other things that may be in the images. They take a part of a region's class probability
            and are never reported, so that a short list of classes does not win every region. None for the model's
            choice, () for none.
        descriptions: sentences on what some classes look like, {"dog": ["a golden retriever"]}; their embeddings are
            averaged into those of the classes.
        exemplars: images of classes, {"my logo": ["logo.png"]}, which may also be in the list of class names; see
            `cora.predictor.exemplars`.
    """

    class_weights: Mapping[str, float] | None = None
    distractors: Sequence[str] | None = None
    descriptions: Descriptions | None = None
    exemplars: Exemplars | None = None

    def __post_init__(self) -> None:
        for name in ("class_weights", "exemplars"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                shape = '{"cup": 2.0}' if name == "class_weights" else '{"cup": ["cup.jpg"]}'
                raise VocabularyError(f"{name}: expected names with values, {shape}, got {_shown(value)}")
            _check_texts(f"names of {name}", value or ())
        for name, weight in (self.class_weights or {}).items():
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise VocabularyError(f"class_weights: expected a number for {name!r}, got {_shown(weight)}")
        if self.distractors is not None:
            object.__setattr__(
                self, "distractors", names_alone("distractors", as_names("distractors", self.distractors))
            )


class VocabularyOptions(TypedDict, total=False):
    """Types of the fields of `VocabularySettings`, for signatures."""

    class_weights: Mapping[str, float] | None
    distractors: Sequence[str] | None
    descriptions: Descriptions | None
    exemplars: Exemplars | None


class PredictOptions(VocabularyOptions, total=False):
    """Types of the options of `Predictor.predict`, for signatures."""

    score: float | None
    nms_iou: float | None
    max_detections: int | None
    class_agnostic: bool | None
    tiles: Tiles | None
    batch_size: int
    score_all_boxes: bool
    precision: Precision | None


def as_classes(classes: Classes) -> dict[str, tuple[str, ...]]:
    """Classes in their normal form, class name -> prompts (`cora.regions.class_prompts`).

    Raises:
        VocabularyError: as for `as_names`, or unusable names or prompts.
    """
    return class_prompts(classes if isinstance(classes, Mapping) else as_names("class names", classes))


def as_names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """Check that `names` is a list of strings, not one string; `what` is the start of error messages.

    Raises:
        VocabularyError: a string instead of a list, an item that is no string, or several names in one string.
    """
    if isinstance(names, str | bytes):
        found = names_in(names if isinstance(names, str) else names.decode(errors="replace"))
        raise VocabularyError(
            f"{what}: expected a list of names, got the text {_shown(names)}; "
            f"put it in a list: {[name for name in found if name]}"
        )
    if not isinstance(names, Iterable):
        raise VocabularyError(f'{what}: expected a list of names, ["cup", "dog"], got {_shown(names)}')
    listed = tuple(names)
    _check_texts(what, listed)
    # A name may contain ", ", as "tench, Tinca tinca", but no other separator of lists.
    several = names_in(listed[0]) if len(listed) == 1 else []
    if len(several) > 1 and listed[0].strip() != ", ".join(several) and not _IN_NUMBER.search(listed[0]):
        raise VocabularyError(
            f"{what}: expected one name in each place, got several in one, {_shown(listed[0])}; write {several}"
        )
    return listed


#: A comma within a number, as in "10,000 yen".
_IN_NUMBER = re.compile(r"\d,\d")


def _check_texts(what: str, names: Iterable[object]) -> None:
    for place, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise VocabularyError(f"{what}: expected a text in each place, got {_shown(name)} at place {place}")


def _check_share(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{name}: expected a number in 0..1, got {_shown(value)}")
    if not 0 <= float(value) <= 1:  # also refuses NaN
        raise OptionError(f"{name}: expected a number in 0..1, got {float(value):g}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(f"{name}: expected a whole number of at least 1, got {_shown(value)}")
    if value < 1:
        raise OptionError(f"{name}: expected at least 1, got {value}")


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, str | bytes | bool | int | float | None) else f"{type(value).__name__} {text}"


#: Names of options in other tools -> their names here.
_MEANT = {
    **dict.fromkeys(
        ("conf", "confidence", "conf_thres", "threshold", "box_threshold", "text_threshold", "score_threshold"),
        "score",
    ),
    **dict.fromkeys(("min_score", "score_thr", "least_score", "scores"), "score"),
    **dict.fromkeys(("iou", "iou_thres", "iou_threshold", "nms", "nms_threshold", "nms_thr"), "nms_iou"),
    **dict.fromkeys(("max_det", "max_dets", "top_k", "topk", "limit", "num_select"), "max_detections"),
    **dict.fromkeys(("agnostic_nms", "agnostic", "class_agnostic_nms", "with_nms"), "class_agnostic"),
    **dict.fromkeys(
        ("text_prompt", "text_prompts", "prompt", "prompts", "text", "texts", "text_labels", "candidate_labels"),
        "classes",
    ),
    **dict.fromkeys(("labels", "names", "class_names", "caption", "queries"), "classes"),
    **dict.fromkeys(("source", "sources", "img", "imgs", "image", "input", "inputs"), "images"),
    **dict.fromkeys(("batch", "bs"), "batch_size"),
    **dict.fromkeys(("half", "fp16", "dtype"), "precision"),
    **dict.fromkeys(("slice", "slices", "sahi", "slicer", "tile"), "tiles"),
    **dict.fromkeys(("weights",), "class_weights"),
    **dict.fromkeys(("visual_prompts", "query_image", "prompts_images"), "exemplars"),
    **dict.fromkeys(("negatives", "negative_labels", "background"), "distractors"),
}
#: Parts of names of options, the most specific first -> names here.
_PARTS = {"iou": "nms_iou", "agnostic": "class_agnostic", "conf": "score", "thresh": "score", "score": "score"}
#: Names of options in other tools -> what does the same here instead of an option.
_ELSEWHERE = {
    **dict.fromkeys(("device",), "cora.load(device=...)"),
    **dict.fromkeys(
        ("imgsz", "img_size", "image_size", "size", "short_side"), "a Predictor with another preprocessor, or 'tiles'"
    ),
    **dict.fromkeys(("stream",), "an iterator as 'images'"),
    **dict.fromkeys(("verbose", "show", "save"), "Detections.draw"),
}


def named_options(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Decorator: an unknown keyword argument raises `UnknownOptionError`, which suggests the one that was meant."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        for name in kwargs:
            if name not in known:
                raise UnknownOptionError(_unknown(function.__name__, name, known))
        return function(*args, **kwargs)

    return checked


def _unknown(function: str, name: str, known: Sequence[str]) -> str:
    word = name.lower()
    meant = _MEANT.get(word) or next((option for part, option in _PARTS.items() if part in word), word)
    close = [meant] if meant in known else difflib.get_close_matches(word, known, n=1)
    if word in _ELSEWHERE and meant not in known:
        hint = f"use {_ELSEWHERE[word]}"
    else:
        hint = f"use {close[0]!r}" if close else "leave it out"
    return f"{function}: expected an option that it has, got {name!r}; {hint} (it has {', '.join(known)})"
