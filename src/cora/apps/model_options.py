"""Options about the model, the class names to look for and how to look, shared by all commands that have them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps.argument_types import Box, NamedPicture, exemplar, overlap, pixels, score, tile_count
from cora.apps.options import OneOf, group, option, switch
from cora.errors import CoraError
from cora.names import name_key

if TYPE_CHECKING:
    from cora.predictor import Tiles
    from cora.predictor.adapt import Scoring
    from cora.regions.sentences import Sentences

_OVERLAP = 0.2


def device_option() -> Any:
    """`device: str`."""
    return option(default="auto", help="cpu, cuda, cuda:1, mps, ... (default: a GPU if there is one)")


def model_option(what: str = "name (see 'cora models') or file") -> Any:
    """`model: str`, nano by default; `what` is the help text."""
    return option(default="nano", help=f"{what} (default: %(default)s)")


def resnet_option() -> Any:
    """`model: str` of commands that need a CLIP ResNet; required, since no embedded model has one."""
    return option(
        required=True,
        metavar="MODEL",
        help="detector on a CLIP ResNet, which nano is not: a file, of 'cora train' or 'cora convert', or a name such "
        "as RN50-quickgelu",
    )


def text_model_option() -> Any:
    """`text_model: str | None`, for exported files."""
    return option(
        metavar="MODEL",
        help="model whose text tower embeds names for an exported file (default: the one named in the file)",
    )


def classes_option(*, optional: bool = False, prompts: bool = True) -> Any:
    """`classes: str`, or `str | None` where it is `optional`.

    Args:
        optional: whether a command finds its class names elsewhere without the option.
        prompts: whether a class may have several prompts.
    """
    return option(
        required=not optional,
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line'
        + (', with several prompts for a class: "mug = cup | coffee cup"' if prompts else "")
        + " (default: those of --exemplar, of a fine-tuned or an exported model, else 1,200 everyday things)"
        * optional,
    )


def score_option(what: str, *, section: str | None = None) -> Any:
    """`score: float | None`, by default the model's own threshold; `what` completes "least score ..." in the help."""
    return option(
        type=score,
        metavar="SCORE",
        section=section,
        help=f"least score {what}, 0 to 1 (default: the model's own, which 'cora models' lists)",
    )


def class_agnostic_option(*, names_given: bool = True, section: str | None = None) -> Any:
    """`class_agnostic: bool`, or `bool | None` for commands with the built-in vocabulary (`names_given=False`)."""
    return option(
        action=argparse.BooleanOptionalAction,
        default=False if names_given else None,
        section=section,
        help="drop a box also for a better one of another class, so that one object has one name "
        + ("(default: no)" if names_given else "(default: with the built-in vocabulary only)"),
    )


def class_weights_option() -> Any:
    """`class_weights: str | None` of the commands that search images for class names."""
    return option(
        metavar="WEIGHTS",
        help='weights of some classes in pre-matching: "bus=8,cat=2", or a JSON file of class name to weight; more '
        "queries look for a class of greater weight (default: 1 for all)",
    )


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The sentences around and about class names, the model's own by default."""

    templates: str | None = option(
        metavar="FILE",
        help="sentences around a class name: a file with one a line, {} for the name, or 'plain' or 'imagenet' "
        "(default: the model's own)",
    )
    descriptions: Path | None = option(
        help='JSON of class name to sentences on its looks, {"dog": ["a golden retriever"]} (default: none)'
    )

    def read(self, names: Sequence[str]) -> Sentences:
        """The sentences in the files, for these class names.

        Raises:
            VocabularyError: a file cannot be used.
        """
        from cora.regions.sentences import read_sentences

        return read_sentences(self.templates, self.descriptions, names)


@dataclass(frozen=True, kw_only=True)
class NamesOptions:
    """What to look for, which `open_model.read_wanted` reads; the help has `{where}` for "images" or "video"."""

    classes: str | None = classes_option(optional=True)
    exemplar: Sequence[NamedPicture] = option(
        type=exemplar,
        action="append",
        default=(),
        metavar="NAME=FILE[#x,y,w,h]",
        help="a class by an image of it, or by a box in an image (pixels); repeat it for more images and classes; "
        "a NAME that is also in --classes is searched for by words and images",
    )
    distractors: str | None = option(
        metavar="NAMES",
        help="other things that may be in the {where}, like --classes, or 'none'; they compete with the classes and "
        "are never reported (default: the model's own choice)",
    )
    text: TextOptions = group(TextOptions)
    class_weights: str | None = class_weights_option()

    def exemplars(self) -> dict[str, list[Path | tuple[Path, Box]]]:
        """Images by class, as `predict(exemplars=...)` takes them; spellings of one name are one class."""
        spelled: dict[str, str] = {}
        classes: dict[str, list[Path | tuple[Path, Box]]] = {}
        for name, path, box_xyxy_px in self.exemplar:
            name = spelled.setdefault(name_key(name), name)
            classes.setdefault(name, []).append(path if box_xyxy_px is None else (path, box_xyxy_px))
        return classes


_TILES = OneOf()


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """Settings for small objects: overlapping tiles of an image, and a larger input of the model."""

    tiles: tuple[int, int] | None = option(
        type=tile_count,
        one_of=_TILES,
        metavar="ROWSxCOLUMNS",
        help="for small objects: also look at this many overlapping tiles of an image, such as 2x2",
    )
    tile_size: int | None = option(
        type=pixels, one_of=_TILES, metavar="PX", help="the same, with the height and width of a tile in pixels"
    )
    tile_overlap: float | None = option(
        type=overlap,
        metavar="SHARE",
        help=f"least share of a tile that its neighbour also covers (default: {_OVERLAP})",
    )
    short_side: int | None = option(
        type=pixels, metavar="PX", help="resize images to this length of their shorter side instead of the model's own"
    )

    def read(self) -> Tiles | None:
        """The tiles that were asked for, if any.

        Raises:
            CoraError: an overlap of no tiles.
        """
        if self.tiles is None and self.tile_size is None:
            if self.tile_overlap is not None:
                raise CoraError(
                    f"expected --tiles or --tile-size beside --tile-overlap {self.tile_overlap:g}, got neither; name "
                    "one"
                )
            return None
        from cora.predictor import Tiles

        share = _OVERLAP if self.tile_overlap is None else self.tile_overlap
        return Tiles(size_px=self.tile_size, count=self.tiles, overlap=share)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How boxes are scored while measuring; by default with numbers that do not depend on the machine."""

    precision: Literal["float32", "auto", "bfloat16", "float16"] = option(
        default="float32",
        help="precision of the image tower; auto, as in `cora detect`, is bfloat16 where that is faster "
        "(default: %(default)s)",
    )
    all_boxes: bool = switch(help="pool every box exactly: the published way, several times slower")

    def read(self) -> Scoring:
        """The same as a setting of a predictor."""
        from cora.predictor.adapt import Scoring

        return Scoring(precision=self.precision, all_boxes=self.all_boxes)
