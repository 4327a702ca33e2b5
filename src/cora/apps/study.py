"""`cora study train` and `cora study evaluate`: their arguments; `study_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option
from cora.apps.parser import Parser
from cora.apps.train_options import add_photos


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `study` to the commands."""
    parser = commands.add_parser(
        "study",
        help="is classification or localization the problem?",
        description="Is classification or localization the problem? Gives the true classes away and measures boxes.",
    )
    add_commands(parser)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands below `cora study`."""
    steps = parser.add_subparsers(title="steps", required=True, metavar="STEP", parser_class=Parser)
    train = steps.add_parser(
        "train",
        help="learn boxes from the true class's activation map",
        description="Learn boxes from activation maps of the true classes, and measure them on held-out images.",
        epilog="The same command again goes on where the run stopped.",
    )
    add_train_arguments(train)
    set_command(train, run_train, run_dir=kinds.STUDY_RUN)
    evaluate = steps.add_parser(
        "evaluate",
        help="how well boxes fit with the class given, and the verdict",
        description="How well boxes fit with the class given: IoU by class, histogram, and the verdict.",
    )
    add_evaluate_arguments(evaluate)
    set_command(evaluate, run_evaluate, json=kinds.STUDY, plot=kinds.PICTURE)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora study train`."""
    add_photos(parser)
    _add_split(parser)
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="folder of held-out images, measured at the end")
    parser.add_argument("--val-annotations", type=Path, metavar="FILE", help="their boxes")
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="DIR",
        dest="run_dir",
        help="folder of the run, the study, the report",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings, JSON or YAML (default: of RN50-quickgelu)"
    )
    add_tower(parser)
    parser.add_argument("--epochs", type=positive, metavar="N", help="epochs in all")
    parser.add_argument("--batch", type=positive, metavar="N", help="images a step")
    parser.add_argument("--lr", type=above_zero, metavar="RATE", help="learning rate")
    parser.add_argument("--versions", type=positive, metavar="N", help="flipped and cropped versions of every image")
    parser.add_argument("--seed", type=whole, metavar="N", help="of everything drawn at random")
    parser.add_argument("--workers", type=whole, metavar="N", help="processes that read images")
    _add_measuring(parser)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora study evaluate`."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.safetensors of a run")
    add_photos(parser)
    _add_split(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="of the tower, where it is not where it was")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the IoU histogram")
    _add_measuring(parser)


def add_tower(parser: argparse.ArgumentParser) -> None:
    """Which frozen tower."""
    parser.add_argument(
        "--tower",
        metavar="NAME",
        help="a CLIP ResNet, the file of a detector on one, or a ViT of open_clip (default: RN50-quickgelu)",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="a ViT's weights in open_clip's format, such as RemoteCLIP-ViT-B-32.pt"
    )


def run_train(args: argparse.Namespace) -> int:
    """Train, measure if asked; returns the exit code."""
    from cora.apps.study_run import train

    return train(args)


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    from cora.apps.study_run import evaluate

    return evaluate(args)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        metavar="FILE",
        help='class split: JSON, "coco" or "lvis"; base classes are learned, novel ones measured, too',
    )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector", metavar="MODEL", help="also ask a detector that is told the true classes of each image"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images of each set")
    parser.add_argument(
        "--resamples", type=positive, default=200, metavar="N", help="bootstrap resamples (default: %(default)s)"
    )
    add_device_option(parser)
