"""`cora text-prompts`: learn the text side on base boxes; its arguments, `text_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_model_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `text-prompts` to the commands."""
    parser = commands.add_parser(
        "text-prompts",
        help="learn the text side on base boxes",
        description="Learn the text side on base boxes: a context, offsets of class embeddings, or the text tower.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.TEXT, save_model=kinds.MODEL, cache=kinds.EMBEDDINGS, run_dir=kinds.RUN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora text-prompts`."""
    parser.add_argument(
        "--method",
        required=True,
        choices=("context", "offsets", "tower"),
        help="context: vectors before the name; offsets: a residual on class embeddings; tower: fine-tune the last "
        "blocks of the text tower",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images to learn from")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="their COCO annotation file")
    parser.add_argument(
        "--split",
        metavar="FILE",
        help='"coco", "lvis", or JSON with the lists "base", which are learned from, and "novel" '
        "(default: all classes are base)",
    )
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="folder of the images to measure on")
    parser.add_argument(
        "--val-annotations", type=Path, metavar="FILE", help="their COCO annotation file (default: nothing is measured)"
    )
    add_model_option(parser, "name or path of the model")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="what was learned (.safetensors)")
    parser.add_argument("--save-model", type=Path, metavar="FILE", help="also write the whole model with it")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the embeddings of the boxes there for the next run"
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", dest="run_dir", help="keep metrics there, and go on where a run stopped"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the boxes (default: the method's)")
    parser.add_argument("--lr", type=above_zero, metavar="RATE", help="learning rate (default: the method's)")
    parser.add_argument(
        "--keep",
        type=above_zero,
        metavar="FACTOR",
        help="how strongly embeddings are held near the hand-written ones (default: the method's)",
    )
    parser.add_argument(
        "--context",
        metavar="TEXT",
        help="words that the context starts from (default: those before the name of the model's only template, or "
        "'a photo of a')",
    )
    parser.add_argument(
        "--layers", type=positive, default=1, metavar="N", help="blocks of the tower that learn (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the start and of the order of boxes (default: %(default)s)"
    )
    parser.add_argument(
        "--resamples", type=positive, default=200, metavar="N", help="bootstrap resamples (default: %(default)s)"
    )
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Learn, measure before and after, write; returns the exit code."""
    from cora.apps.text_run import learn_text

    return learn_text(arguments)
