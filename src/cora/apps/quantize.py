"""`cora quantize`: its arguments; `quantize_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive
from cora.apps.command import set_command
from cora.apps.model_options import add_model_option

BACKENDS = ("onnxruntime", "openvino", "torchao")
MODES = ("dynamic", "static")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `quantize` to the commands."""
    parser = commands.add_parser(
        "quantize",
        help="a model in INT8, with what it costs",
        description="A model in INT8: smaller, faster where the processor helps, and measured before it is written.",
        epilog="Exit code: 0 done; 2 bad input, or a model that lost too much, and nothing written.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.EXPORT, json=kinds.QUANTIZED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora quantize`."""
    add_model_option(parser, "name or checkpoint")
    parser.add_argument("--backend", choices=BACKENDS, required=True, help="what quantizes, and runs the result")
    parser.add_argument(
        "--mode",
        choices=MODES,
        required=True,
        help="dynamic: the scale of an input is found when it comes; static: found before, on --calibration",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="model to write: .onnx (onnxruntime), .xml (openvino) or .safetensors (torchao)",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="images that the result is measured on"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="their boxes (COCO, LVIS, VOC or YOLO)")
    parser.add_argument(
        "--split", type=Path, metavar="FILE", help='with --annotations: JSON of "base" and "novel" classes, or "coco"'
    )
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help='without --annotations: names to look for, "cat, dog" or @FILE (default: a hundred everyday ones)',
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="measure on the first N images only")
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", help="with --mode static: images like those that will come"
    )
    parser.add_argument(
        "--calibration-limit",
        type=positive,
        default=100,
        metavar="N",
        help="calibrate on at most so many, evenly chosen (default: %(default)s)",
    )
    parser.add_argument(
        "--max-loss",
        type=above_zero,
        default=1.0,
        metavar="POINTS",
        help="refuse a model that loses more AP50 (0 to 100) in any group of classes (default: %(default)s)",
    )
    parser.add_argument(
        "--min-agreement",
        type=above_zero,
        default=50.0,
        metavar="POINTS",
        help="refuse a model whose boxes agree less with the float model's, 0 to 100 (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="write the model whatever it lost")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to this file")


def run(arguments: argparse.Namespace) -> int:
    """Quantize, measure, and write the model unless it lost too much; returns the exit code."""
    from cora.apps.quantize_run import quantize

    return quantize(arguments)
