"""The command line. Parsing only: the imports that take seconds wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cora import __version__
from cora.apps import evaluate
from cora.errors import CoraError

_INTERRUPTED = 130  # the shell's convention for a program ended by Ctrl-C


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cora: error: {message}; see '{self.prog} --help'\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 (done), 1 (some files of a batch failed) or 2 (bad input)."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CoraError as error:
        sys.stderr.write(f"cora: error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("cora: interrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; flushing at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The machine's refusals (permission, full disk, unreadable folder) are no bugs and need no traceback.
        place = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"cora: error: {error.strerror or error}{place}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cora", description="Name the objects, get the boxes: open-vocabulary detection.")
    parser.add_argument("--version", action="version", version=f"cora {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    detect = commands.add_parser(
        "detect",
        help="find named objects in pictures",
        description="Find named objects in pictures: prints a table and writes pictures with boxes.",
        epilog="Exit code: 0 done, even with nothing found; 1 some pictures of a batch failed; 2 bad input.",
    )
    detect.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="picture, folder (the pictures in it) or glob pattern"
    )
    detect.add_argument(
        "--classes",
        required=True,
        metavar="NAMES",
        help='names divided by commas, "cat, remote control", or @FILE with one name a line',
    )
    detect.add_argument(
        "--distractors",
        metavar="NAMES",
        help="other things that may be in the pictures, like --classes, or 'none'; they compete with the classes and "
        "are never reported (default: the model's own choice)",
    )
    detect.add_argument("--model", default="nano", help="name (see 'cora models') or file (default: %(default)s)")
    detect.add_argument(
        "--score", type=_score, default=0.3, help="least score that is shown, 0 to 1 (default: %(default)s)"
    )
    detect.add_argument(
        "--output",
        type=Path,
        default=Path("cora-output"),
        metavar="DIR",
        help="folder of the drawn pictures (default: %(default)s)",
    )
    detect.add_argument("--json", type=Path, metavar="FILE", help="also write all boxes in COCO format")
    _add_device(detect)
    detect.set_defaults(run=_detect)

    convert = commands.add_parser(
        "convert",
        help="turn a published checkpoint into a model file",
        description="Turn a published checkpoint (a dict with 'model' or 'model_ema') into a model file.",
    )
    convert.add_argument("checkpoint", type=Path, metavar="FILE", help="published checkpoint (.pth)")
    convert.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors", help="model file to write")
    convert.set_defaults(run=_convert)

    models = commands.add_parser("models", help="list the known models", description="List the known models.")
    models.set_defaults(run=_models)

    boxes = commands.add_parser(
        "evaluate",
        help="box AP of a model on an annotated folder",
        description="Box AP of novel, base and all classes on an annotated folder, with intervals.",
    )
    evaluate.add_arguments(boxes)
    boxes.set_defaults(run=evaluate.run)

    regions = commands.add_parser(
        "region-accuracy",
        help="how often a model names ground-truth boxes right",
        description="How often a model names ground-truth boxes right among all classes of a folder.",
    )
    evaluate.add_region_arguments(regions)
    regions.set_defaults(run=evaluate.run_regions)
    return parser


def _detect(arguments: argparse.Namespace) -> int:
    from cora.apps.image import detect

    return detect(
        sources=arguments.sources,
        classes=arguments.classes,
        model=arguments.model,
        score=arguments.score,
        output=arguments.output,
        json_path=arguments.json,
        device=arguments.device,
        distractors=arguments.distractors,
    )


def _convert(arguments: argparse.Namespace) -> int:
    from cora.apps.convert import convert

    return convert(checkpoint=arguments.checkpoint, output=arguments.output)


def _models(arguments: argparse.Namespace) -> int:
    from cora.apps.models import list_models

    return list_models()


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: a GPU if there is one)")


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in 0..1, got {text!r}")
    return value
