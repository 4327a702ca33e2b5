"""`cora export`: writes a detector for another runtime, after a comparison with the original."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cora.apps import kinds
from cora.apps.argument_types import positive, whole
from cora.apps.command import Command
from cora.apps.model_options import TextOptions, model_option
from cora.apps.options import group, option, switch
from cora.errors import CoraError, ImageError

if TYPE_CHECKING:
    from PIL import Image

#: Most images that are compared on, since they go through both models in one batch.
_MOST_IMAGES = 8


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and 32 <= int(height) <= 8192 and 32 <= int(width) <= 8192):
        raise argparse.ArgumentTypeError(f"expected height and width in 32..8192, such as 480x640, got {text!r}")
    return int(height), int(width)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `cora export`."""

    format: Literal["onnx", "openvino", "tensorrt", "litert", "exported-program"] = option(
        required=True, help="what to write"
    )
    model: str = model_option("name or path of the model")
    output: Path = option(
        required=True,
        writes=kinds.EXPORT,
        help="file to write: .onnx, .xml (OpenVINO; .bin and .json go beside it), .engine (TensorRT; .json goes beside "
        "it), .tflite (LiteRT; .json goes beside it) or .pt2 (exported program)",
    )
    classes: str | None = option(
        metavar="NAMES",
        help="fix these names in the file: divided by commas, or @FILE with one name a line (default: class embeddings "
        "are an input, so that names are given at run time)",
    )
    distractors: str | None = option(
        metavar="NAMES",
        help="with --classes: other things that compete with them and are never reported, or 'none' (default: the "
        "model's own choice)",
    )
    text: TextOptions = group(TextOptions)
    dynamic: bool = switch(
        help="any size and any number of images: the default, where neither --size nor --batch says otherwise"
    )
    size: tuple[int, int] | None = option(
        type=_size,
        metavar="HxW",
        help="one height and width in pixels; images are made to fit and padded (default: any)",
    )
    batch: int | None = option(type=positive, help="one number of images (default: any)")
    boxes: int | None = option(
        type=positive, metavar="K", help="boxes per image that are classified (default: the model's own number)"
    )
    exact_boxes: int | None = option(
        type=whole,
        metavar="E",
        help="of these, how many are pooled exactly; 0 for all (default: the model's own number)",
    )
    nms: Literal["outside", "inside"] = option(
        default="outside", help="whether non-maximum suppression is part of the graph (default: %(default)s)"
    )
    check_on: Sequence[str] = option(
        nargs="+",
        default=(),
        metavar="IMAGE",
        help="images, folders or patterns to compare with the original on, the first eight (default: drawn images)",
    )
    force: bool = switch(help="keep the file also if it differs from the original")


def run(options: ExportOptions) -> int:
    """Export, check and write; everything that can be checked is checked before the model is loaded.

    Returns:
        Exit code 0.

    Raises:
        CoraError: bad input, or an exported detector that differs from the original.
    """
    from cora.apps.open_model import open_torch_detector, tell_distractors
    from cora.console import output_console, working
    from cora.data.name_file import read_classes, read_distractors
    from cora.export.manifest import ExportSettings
    from cora.export.write import check_output, export_detector
    from cora.predictor import Predictor
    from cora.regions import other_prompts

    if options.dynamic and (options.size is not None or options.batch is not None):
        given = "--size" if options.size is not None else "--batch"
        raise CoraError(f"expected --dynamic or {given}, got both; leave out one of them")
    if options.dynamic and options.format == "litert":
        raise CoraError("--dynamic: expected another format, since a LiteRT graph has one size; leave it out")
    settings = ExportSettings(
        size_hw=options.size,
        batch=options.batch,
        boxes=options.boxes or 0,
        exact_boxes=options.exact_boxes,
        nms=options.nms,
    )
    check_output(options.output, options.format, names_fixed=options.classes is not None)
    if options.classes is None:
        named = {
            "distractors": options.distractors,
            "templates": options.text.templates,
            "descriptions": options.text.descriptions,
        }
        for name, value in named.items():
            if value is not None:
                raise CoraError(
                    f"--{name}: expected --classes beside it, got none; give it where names are, at run time"
                )
    classes = None if options.classes is None else read_classes(options.classes)
    others = read_distractors(options.distractors)
    sentences = options.text.read(tuple(classes or ()))
    images = _images(options.check_on)
    detector = open_torch_detector(options.model, "cpu", needs="cora export")
    vocabulary = None
    if classes is not None:
        sentences.apply(detector.vocabulary_encoder)
        vocabulary = Predictor(detector).vocabulary(classes, distractors=others)
        tell_distractors(detector, (*classes, *other_prompts(classes)), others)
    with working(f"exporting {options.model} to {options.format}, then comparing"):
        written = export_detector(
            detector,
            options.output,
            format=options.format,
            model=options.model,
            settings=settings,
            vocabulary=vocabulary,
            pictures=images,
            force=options.force,
        )
    console = output_console()
    for file in written.files:
        console.print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
    what = "compared with the original"
    if options.format == "tensorrt":
        what = "the ONNX graph of the engine, compared with the original"
    console.print(f"{what}: {written.difference}", soft_wrap=True)
    if not written.difference.passes:
        console.print("[bold]differs from the original[/bold]; kept because of --force", soft_wrap=True)
    return 0


def _images(sources: Sequence[str]) -> list[Image.Image]:
    from cora.data.sources import find_images
    from cora.images import read_image

    if not sources:
        return []
    found = find_images(sources)
    if found.problems:
        raise ImageError(found.problems[0])
    return [read_image(path) for path in found.paths[:_MOST_IMAGES]]


COMMAND = Command(
    name="export",
    options=ExportOptions,
    run=run,
    help="a model for another runtime, compared with the original",
    description="A model for another runtime: ONNX, OpenVINO, TensorRT, LiteRT or a PyTorch program, compared with the "
    "original before it is written.",
    epilog="Exit code: 0 done; 2 bad input, or a file that differs from the original, and nothing written.",
)
