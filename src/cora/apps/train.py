"""`cora train` and `cora relabel`: their arguments; `train_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_model_option
from cora.apps.parser import Parser
from cora.apps.process_options import add_process_options
from cora.apps.train_options import add_photos, add_settings


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and `relabel` to the commands."""
    stages = commands.add_parser(
        "train",
        help="train the region prompt, the localizer, or all",
        description="Train the region prompt, the localizer, or all, from a recipe or plain options.",
    )
    add_commands(stages)
    labels = commands.add_parser(
        "relabel",
        help="give boxes the class that the model sees in them",
        description="CLIP-aligned labels: a copy of an annotation file, every box with the class that the model sees.",
    )
    add_relabel_arguments(labels)
    set_command(labels, run_relabel, output=kinds.RELABELLED, plot=kinds.PICTURE, json=kinds.AGREEMENT)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands below `cora train`."""
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE", parser_class=Parser)
    for stage, text in (
        ("prompts", "train the region prompt on ground-truth boxes"),
        ("localizer", "train the localizer"),
        ("all", "train prompts, relabel, train the localizer"),
    ):
        one = stages.add_parser(stage, help=text, description=f"{text.capitalize()}.", epilog=EPILOG)
        add_arguments(one, stage=stage)
        one.set_defaults(stage=stage)
        set_command(one, run, run_dir=kinds.RUNS[stage])


EPILOG = (
    "The same command again goes on where the run stopped. A recipe is a Python file that is executed: use your own "
    "or one that you have read."
)


def add_arguments(parser: argparse.ArgumentParser, *, stage: str) -> None:
    """Arguments of a stage of `cora train`."""
    parser.add_argument(
        "recipe", nargs="?", type=Path, metavar="RECIPE", help="Python file with recipe() (default: by the model)"
    )
    add_photos(parser)
    parser.add_argument(
        "--split", metavar="FILE", help='class split, of which the base classes are learned: JSON, "coco" or "lvis"'
    )
    parser.add_argument(
        "--all-classes",
        action="store_true",
        help="learn every class of the annotations that the split does not call novel, such as those of "
        "'cora pseudo-label'",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", dest="run_dir", help="folder of the run")
    parser.add_argument("--model", help="name or file to start from (default: the recipe's, nano without one)")
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="folder of held-out images")
    parser.add_argument(
        "--val-annotations", type=Path, metavar="FILE", help="their boxes; measured while training, never trained on"
    )
    parser.add_argument("--every", type=positive, metavar="N", help="epochs between two measurements")
    add_settings(parser, named=stage != "all")
    add_process_options(parser, again="goes on after every stop")
    add_device_option(parser)


def add_relabel_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora relabel`."""
    add_photos(parser)
    parser.add_argument(
        "--split", metavar="FILE", help='class split, of which the base classes are relabelled: JSON, "coco" or "lvis"'
    )
    add_model_option(parser, "name or file with a trained prompt")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="annotation file to write (COCO)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw which classes are confused")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the agreement by class")
    add_process_options(parser, again="starts anew if it is preempted")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """One stage or all of them; returns the exit code."""
    from cora.apps.train_run import run_training

    return run_training(args)


def run_relabel(args: argparse.Namespace) -> int:
    """CLIP-aligned labels of an annotation file; returns the exit code."""
    from cora.apps.train_run import run_relabelling

    return run_relabelling(args)
