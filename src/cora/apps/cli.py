"""The command line. It only parses: a command imports what takes seconds when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from cora.apps import (
    align,
    batch,
    calibrate,
    datasets,
    detect,
    distill,
    evaluate,
    export,
    finetune,
    groups,
    models,
    prune,
    pseudo_label,
    quantize,
    region_accuracy,
    relabel,
    search,
    search_arch,
    serve,
    study,
    text_prompts,
    train,
    video,
)
from cora.apps.command import Command, CommandGroup, Parser, run_command
from cora.errors import CoraError

#: In the order of the help.
_COMMANDS: tuple[Command[Any] | CommandGroup, ...] = (
    detect.COMMAND,
    video.COMMAND,
    models.CONVERT,
    models.MODELS,
    evaluate.COMMAND,
    region_accuracy.COMMAND,
    train.COMMAND,
    relabel.COMMAND,
    pseudo_label.COMMAND,
    text_prompts.COMMAND,
    groups.COMMAND,
    finetune.COMMAND,
    search.INDEX,
    search.SEARCH,
    serve.COMMAND,
    study.STUDY,
    study.CAM,
    calibrate.COMMAND,
    align.COMMAND,
    prune.COMMAND,
    distill.COMMAND,
    search_arch.COMMAND,
    export.COMMAND,
    quantize.COMMAND,
    batch.COMMAND,
    datasets.SHARDS,
    datasets.SPLIT,
)

_INTERRUPTED = 130  # the shell's convention for a program ended by Ctrl-C


class _Version(argparse.Action):
    """Print the version and end; finding it takes a while, so that it waits until it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from cora import __version__

        sys.stdout.write(f"cora {__version__}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 (done), 1 (some files of a batch failed) or 2 (bad input)."""
    arguments = _parser().parse_args(argv)
    try:
        code = run_command(arguments)
        sys.stdout.flush()
        return code
    except CoraError as error:
        sys.stderr.write(f"cora: error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt as interruption:
        sys.stderr.write(f"cora: interrupted {interruption}".rstrip() + "\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the output (`| head`) has gone; flushing at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Errors of the machine (permission, full disk, unreadable folder) are no bugs and need no traceback.
        place = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"cora: error: {error.strerror or error}{place}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="cora", description="Name the objects, get the boxes: open-vocabulary detection."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and end"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_command(commands)
    return parser
