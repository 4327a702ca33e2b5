"""`cora export`: a detector for another runtime, compared with the original before it gets its name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cora.apps.competing import tell_distractors
from cora.apps.files import find_images
from cora.apps.model_options import read_classes, read_distractors
from cora.apps.open_model import open_torch_detector
from cora.apps.text_options import read_text_options
from cora.console import output_console, working
from cora.errors import CoraError, ImageError
from cora.export.manifest import ExportSettings
from cora.export.write import check_output, export_detector
from cora.images import read_image
from cora.predictor import Predictor
from cora.regions import other_prompts

if TYPE_CHECKING:
    from PIL import Image

#: Images that are compared on, at most: they go through both in one batch.
_MOST_PICTURES = 8


def export(args: argparse.Namespace) -> int:
    """Export, check and write; everything that can be checked is checked before the model is loaded.

    Returns:
        Exit code 0.

    Raises:
        CoraError: bad input, or an exported detector that differs from the original.
    """
    settings = _settings(args)
    check_output(args.output, args.format)
    if args.classes is None:
        beside = [name for name in ("distractors", "templates", "descriptions") if getattr(args, name) is not None]
        if beside:
            raise CoraError(
                f"--{beside[0]}: expected --classes beside it, got none; give it where names are, at run time"
            )
    classes = None if args.classes is None else read_classes(args.classes)
    others = read_distractors(args.distractors)
    options = read_text_options(args.templates, args.descriptions, tuple(classes or ()))
    pictures = _pictures(args.check_on)
    detector = open_torch_detector(args.model, "cpu", needs="cora export")
    vocabulary = None
    if classes is not None:
        options.apply(detector.vocabulary_encoder)
        vocabulary = Predictor(detector).vocabulary(classes, distractors=others)
        tell_distractors(detector, (*classes, *other_prompts(classes)), others)
    with working(f"exporting {args.model} to {args.format}, then comparing"):
        written = export_detector(
            detector,
            args.output,
            format=args.format,
            model=str(args.model),
            settings=settings,
            vocabulary=vocabulary,
            pictures=pictures,
            force=args.force,
        )
    console = output_console()
    for file in written.files:
        console.print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
    what = "compared with the original"
    if args.format == "tensorrt":
        what = "the ONNX graph of the engine, compared with the original"
    console.print(f"{what}: {written.difference}", soft_wrap=True)
    if not written.difference.passes:
        console.print("[bold]differs from the original[/bold]; kept because of --force", soft_wrap=True)
    return 0


def _settings(args: argparse.Namespace) -> ExportSettings:
    if args.dynamic and (args.size is not None or args.batch is not None):
        given = "--size" if args.size is not None else "--batch"
        raise CoraError(f"expected --dynamic or {given}, got both; leave out one of them")
    return ExportSettings(
        size_hw=args.size, batch=args.batch, boxes=args.boxes or 0, exact_boxes=args.exact_boxes, nms=args.nms
    )


def _pictures(sources: list[str]) -> list[Image.Image]:
    if not sources:
        return []
    found = find_images(sources)
    if found.problems:
        raise ImageError(found.problems[0])
    return [read_image(path) for path in found.paths[:_MOST_PICTURES]]
