"""`cora export`: its arguments; `export_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive, whole
from cora.apps.command import set_command
from cora.apps.model_options import add_model_option
from cora.apps.text_options import add_text_options

FORMATS = ("onnx", "openvino", "tensorrt", "exported-program")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export` to the commands."""
    parser = commands.add_parser(
        "export",
        help="a model for another runtime, compared with the original",
        description="A model for another runtime: ONNX, OpenVINO, TensorRT or a PyTorch program, compared with the "
        "original before it is written.",
        epilog="Exit code: 0 done; 2 bad input, or a file that differs from the original, and nothing written.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.EXPORT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora export`."""
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    add_model_option(parser, "name or path of the model")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .onnx, .xml (OpenVINO; .bin and .json go beside it), .engine (TensorRT; .json goes beside "
        "it) or .pt2 (exported program)",
    )
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="fix these names in the file: divided by commas, or @FILE with one name a line (default: class embeddings "
        "are an input, so that names are given at run time)",
    )
    parser.add_argument(
        "--distractors",
        metavar="NAMES",
        help="with --classes: other things that compete with them and are never reported, or 'none' (default: the "
        "model's own choice)",
    )
    add_text_options(parser)
    parser.add_argument(
        "--dynamic",
        action="store_true",
        help="any size and any number of images: the default, where neither --size nor --batch says otherwise",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="one height and width in pixels; images are made to fit and padded (default: any)",
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="one number of images (default: any)")
    parser.add_argument(
        "--boxes",
        type=positive,
        metavar="K",
        help="boxes of an image whose class is looked at (default: the model's own number)",
    )
    parser.add_argument(
        "--exact-boxes",
        type=whole,
        metavar="E",
        help="of these, how many are pooled exactly; 0 for all (default: the model's own number)",
    )
    parser.add_argument(
        "--nms",
        choices=("outside", "inside"),
        default="outside",
        help="whether non-maximum suppression is part of the graph (default: %(default)s)",
    )
    parser.add_argument(
        "--check-on",
        nargs="+",
        default=(),
        metavar="PICTURE",
        help="images, folders or patterns to compare on with the original (default: drawn images)",
    )
    parser.add_argument("--force", action="store_true", help="keep the file also if it differs from the original")


def run(arguments: argparse.Namespace) -> int:
    """Export, check and write; returns the exit code."""
    from cora.apps.export_run import export

    return export(arguments)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and 32 <= int(height) <= 8192 and 32 <= int(width) <= 8192):
        raise argparse.ArgumentTypeError(f"expected height and width in 32..8192, such as 480x640, got {text!r}")
    return int(height), int(width)
