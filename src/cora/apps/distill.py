"""`cora distill`: its arguments; `distill_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.command import set_command
from cora.apps.prune import add_measuring


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `distill` to the commands."""
    parser = commands.add_parser(
        "distill",
        help="a large model teaches a small one on images without labels",
        description="A large model teaches a small one: names and boxes of regions, on images without labels.",
        epilog="The same command again goes on where the run stopped.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.MODEL, json=kinds.COMPARED, run_dir=kinds.DISTILL_RUN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora distill`."""
    parser.add_argument("--teacher", required=True, help="name or file of the model that teaches")
    student = parser.add_mutually_exclusive_group(required=True)
    student.add_argument("--student", metavar="MODEL", help="name or file of the model that learns, as of 'cora prune'")
    student.add_argument(
        "--architecture",
        type=Path,
        metavar="FILE",
        help='JSON of sizes of a fresh student, {"width": 24, "ff": 256, ...}; the others are the teacher\'s',
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="images; they need no labels")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", dest="run_dir", help="folder of the run")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="model file (default: model.safetensors in the run)"
    )
    what = parser.add_argument_group("what is distilled")
    what.add_argument(
        "--learn",
        choices=("all", "tower", "localizer"),
        default="all",
        help="parts of the student (default: %(default)s); text tower and prompt stay",
    )
    what.add_argument(
        "--boxes",
        choices=("direct", "targets"),
        default="direct",
        help="the teacher's boxes query by query, or its best ones as ground truth (default: %(default)s)",
    )
    for name, default, text in (
        ("kl", 1.0, "of KL over the classes' probabilities"),
        ("cosine", 5.0, "of the cosine to the teacher's embedding"),
        ("box", 1.0, "of boxes and objectness"),
    ):
        what.add_argument(
            f"--{name}-weight", type=above_zero, default=default, metavar="W", help=f"{text} (default: %(default)s)"
        )
    what.add_argument(
        "--regions", type=positive, default=24, metavar="N", help="regions an image (default: %(default)s)"
    )
    long = parser.add_argument_group("how long")
    long.add_argument("--epochs", type=positive, default=10, metavar="N", help="over the images (default: %(default)s)")
    long.add_argument("--batch", type=positive, default=4, metavar="N", help="images a step (default: %(default)s)")
    long.add_argument(
        "--lr", type=above_zero, default=5e-4, metavar="RATE", help="learning rate (default: %(default)s)"
    )
    long.add_argument("--workers", type=whole, default=0, metavar="N", help="processes that read images (%(default)s)")
    add_measuring(parser)


def run(args: argparse.Namespace) -> int:
    """Teach a small model; returns the exit code."""
    from cora.apps.distill_run import distill_model

    return distill_model(args)
